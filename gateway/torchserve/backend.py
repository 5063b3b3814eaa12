"""TorchServe as a backend: predictions over its REST API, the state of its workers over its management API."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from marquee.gateway.backend import (
    FORWARDED_HEADERS,
    AbsentError,
    Backend,
    Call,
    LostError,
    Reply,
    UnreachedError,
    Version,
)
from marquee.gateway.torchserve.description import own_description, read_versions
from marquee.gateway.torchserve.link import Answered, Link, model_path
from marquee.gateway.torchserve.managing import Managing, wait_for_workers
from marquee.gateway.torchserve.refusals import TOO_LARGE, read_refusal, too_large, translate
from marquee.gateway.torchserve.target import Target

STATE_SECONDS = 3.0
"""Until when the management API has said how the workers are."""
DESCRIBE_SECONDS = 15.0
MANAGE_SECONDS = 300.0
"""Removing a version waits for its workers' end."""
PAGE = 100


class TorchServe(Backend):
    """See the module. It outlives the front end: :meth:`reconnect` gives it the next one.

    Args:
        target: the front end that runs; None: none does yet.
    """

    def __init__(self, target: Target | None = None) -> None:
        self._target = target
        self._link: Link | None = None
        self._seen: dict[tuple[str, str], Version] = {}
        self._defaults: dict[str, str] = {}
        self._waiting = asyncio.Lock()
        self._descriptions: dict[tuple[str, str], tuple[frozenset[int | None], Mapping[str, Any]]] = {}

    @property
    def target(self) -> Target | None:
        """The front end; None: none is known to run."""
        return self._target

    async def open(self) -> None:
        """Makes the connections, where a front end is known; they are used at the first request."""
        if self._target is not None and self._link is None:
            self._link = Link(self._target)

    async def close(self) -> None:
        """Gives up all connections; attempts under way end with :class:`LostError`."""
        await self.disconnect()

    async def reconnect(self, target: Target) -> None:
        """From now on this front end is asked. It must have all its models and versions back.

        Args:
            target: the front end, which listens.
        """
        await self.disconnect()
        self._target = target
        await self.open()

    async def disconnect(self) -> None:
        """The front end has ended, or is about to: until :meth:`reconnect` every attempt is an ``UnreachedError``."""
        link, self._link, self._target = self._link, None, None
        self._descriptions.clear()
        if link is not None:
            await link.close()

    async def ask(self, call: Call, timeout: float) -> Reply:
        """One attempt; see :class:`~marquee.gateway.backend.Backend`."""
        link = self._connected()
        largest = link.target.largest
        if largest is not None and len(call.body) > largest:
            return too_large(len(call.body), largest)  # TorchServe resets the connection, and does not say why
        answered = await link.request(
            "inference",
            "POST",
            model_path(call.verb, call.model, call.version),
            timeout=timeout,
            headers=_headers(call),
            body=call.body,
        )
        if answered.status >= 400:
            if (refusal := read_refusal(answered.status, answered.body)) is not None:
                return translate(refusal, self._has_workers(call))
            if answered.status == TOO_LARGE and not answered.body:
                return too_large(len(call.body), largest or len(call.body))
        return _reply(answered)

    async def versions(self) -> Sequence[Version]:
        """Every version of every model; see :class:`~marquee.gateway.backend.Backend`."""
        link = self._connected()
        names = await self._names(link)
        found = [
            version
            for versions in await asyncio.gather(*(self._of(link, name) for name in names))
            for version in versions
        ]
        if link is self._link:  # of the front end that is asked now
            self._seen = {(version.name, version.version): version for version in found}
            self._defaults = {version.name: version.version for version in found if version.is_default}
        return found

    async def describe(self, name: str, version: str | None = None) -> Mapping[str, Any]:
        """What the handler says of itself, asked once for each set of workers; see the protocol."""
        chosen = version if version is not None else self._defaults.get(name, "")
        seen = self._seen.get((name, chosen))
        workers = frozenset(worker.pid for worker in seen.workers) if seen is not None else None
        kept = self._descriptions.get((name, chosen))
        if kept is not None and kept[0] == workers:
            return kept[1]
        link = self._connected()
        # A worker answers this, in turn with predictions: it may take as long.
        documents = await self._read(
            link, model_path("models", name, version), DESCRIBE_SECONDS, {"customized": "true"}
        )
        said = own_description(documents[0]) if documents else None
        if said is None:
            raise LostError(f"{name}: no worker says what it serves")
        if workers:
            self._descriptions[(name, chosen)] = (workers, said)
        return said

    async def manage(self, method: str, path: str, query: Mapping[str, str], body: bytes = b"") -> Reply:
        """A request of the management API, with its token; it is sent once, see the protocol and :mod:`.managing`.

        Args:
            method: HTTP method.
            path: not quoted, such as ``/models/photos``.
            query: the URL's parameters, not encoded.
            body: of the request.
        """
        request = Managing(method=method, path=path, query=query, body=body)
        if not request.waits:
            return await self._manage(request)
        async with self._waiting:  # one after the other: a new version is known by not having been there before
            return await wait_for_workers(request, self._manage, self.versions)

    async def _manage(self, request: Managing) -> Reply:
        sent = await self._connected().request(
            "management",
            request.method,
            quote(request.path, safe="/"),
            timeout=MANAGE_SECONDS,
            query=urlencode(request.query, quote_via=quote),
            headers={"Content-Type": "application/json"} if request.body else None,
            body=request.body or None,
        )
        return _reply(sent)

    async def metrics(self) -> str:
        """What the front end and the handlers count."""
        return await self._connected().get_metrics(STATE_SECONDS)

    def _connected(self) -> Link:
        if self._link is None:
            raise UnreachedError("TorchServe does not run")
        return self._link

    def _has_workers(self, call: Call) -> bool:
        """By what was last seen: TorchServe says the same of a full queue and of a version without workers."""
        version = call.version if call.version is not None else self._defaults.get(call.model, "")
        seen = self._seen.get((call.model, version))
        return seen is not None and bool(seen.workers)

    async def _names(self, link: Link) -> list[str]:
        names: list[str] = []
        start = "0"
        while start:
            page = await self._read(link, "/models", STATE_SECONDS, {"limit": str(PAGE), "next_page_token": start})
            names += [str(entry["modelName"]) for entry in page["models"]]
            start = str(page.get("nextPageToken") or "")
        return names

    async def _of(self, link: Link, name: str) -> list[Version]:
        """The versions of a model; none if it has just been removed."""
        try:
            described = await self._read(link, f"{model_path('models', name, None)}/all", STATE_SECONDS)
            default = None
            if len(described) > 1:
                (chosen,) = await self._read(link, model_path("models", name, None), STATE_SECONDS)
                default = str(chosen["modelVersion"])
            return read_versions(described, default)
        except AbsentError:
            return []

    async def _read(self, link: Link, path: str, timeout: float, query: Mapping[str, str] | None = None) -> Any:
        """JSON of the management API."""
        answered = await link.request("management", "GET", path, timeout=timeout, query=urlencode(query or {}))
        if answered.status == 404:
            refusal = read_refusal(404, answered.body)
            raise AbsentError(refusal.message if refusal else path)
        if answered.status != 200:
            raise LostError(f"the management API answers {answered.status}")
        try:
            return json.loads(answered.body)
        except ValueError as error:
            raise LostError(f"the management API's answer is no JSON: {error}") from error


def _headers(call: Call) -> dict[str, str]:
    headers = {"Content-Type": call.content_type}
    for name, value in call.headers.items():
        if name in FORWARDED_HEADERS:
            headers[name] = value
    return headers


def _reply(answered: Answered) -> Reply:
    headers = answered.headers
    kept = (
        {"inference-header-content-length": length}
        if (length := headers.get("inference-header-content-length"))
        else {}
    )
    return Reply(
        status=answered.status,
        body=answered.body,
        content_type=headers.get("Content-Type", "application/octet-stream"),
        headers=kept,
    )
