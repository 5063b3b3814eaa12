"""Requests of the management API that wait for workers.

TorchServe lets such a request wait in a thread of its event loop: every connection of that thread, a quarter of all
on two cores, hangs until the workers have started, predictions among them (seen with 0.12.0). So it is told not to
wait, and the waiting is done here.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from marquee.gateway.backend import Reply, Version

POLL_SECONDS = 0.25
MOST_DEATHS = 2
"""Workers that end before they are READY: the second shows that the first was no accident."""
_OK, _ACCEPTED, _FAILED = 200, 202, 500

Send = Callable[["Managing"], Awaitable[Reply]]
Look = Callable[[], Awaitable[Sequence[Version]]]


@dataclass(frozen=True, kw_only=True)
class Managing:
    """One request."""

    method: str
    path: str
    """Not quoted."""
    query: Mapping[str, str]
    body: bytes = b""

    @property
    def is_registration(self) -> bool:
        """Whether it brings a new version."""
        return self.method == "POST" and self.parts == ["models"]

    @property
    def parts(self) -> list[str]:
        """Of the path."""
        return self.path.strip("/").split("/")

    @property
    def waits(self) -> bool:
        """Whether TorchServe would answer it when workers have started: registering does so unless told otherwise."""
        is_scaling = self.method == "PUT" and self.parts[0] == "models" and len(self.parts) in (2, 3)
        if not (self.is_registration or is_scaling):
            return False
        default = "true" if self.is_registration else "false"
        said = self.query.get("synchronous", self._document.get("synchronous", default))
        return str(said).lower() == "true"

    def without_waiting(self) -> "Managing":
        """The same, for an answer at once."""
        query, body = {**self.query, "synchronous": "false"}, self.body
        if self._document:
            body = json.dumps({**self._document, "synchronous": False}).encode()
        return replace(self, query=query, body=body)

    @property
    def _document(self) -> Mapping[str, Any]:
        try:
            document = json.loads(self.body) if self.body else {}
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


async def wait_for_workers(request: Managing, send: Send, look: Look) -> Reply:
    """Sends a request that :attr:`~Managing.waits`, and answers when TorchServe would.

    Args:
        request: what a client asked for.
        send: sends a request to TorchServe.
        look: every version as it is now.

    Raises:
        LostError: TorchServe does not answer.
    """
    before = {(version.name, version.version) for version in await look()} if request.is_registration else set()
    reply = await send(request.without_waiting())
    if reply.status != _ACCEPTED:
        return reply
    deaths = _Deaths()
    while True:
        version = _meant(request, before, await look())
        if version is None:
            break  # it was removed meanwhile, perhaps by TorchServe itself, because its workers could not start
        if version.wanted is not None and version.wanted <= version.ready_workers == len(version.workers):
            return _answer(_OK, {"status": _done(request, version)})
        if deaths.count(version) >= MOST_DEATHS:
            if request.is_registration:  # as TorchServe does
                path = f"/models/{version.name}/{version.version}"
                await send(Managing(method="DELETE", path=path, query={}))
            break
        await asyncio.sleep(POLL_SECONDS)
    named = "" if version is None else f" {version.name} version: {version.version}"
    message = f"Failed to start workers for model{named}"
    return _answer(_FAILED, {"code": _FAILED, "type": "InternalServerException", "message": message})


class _Deaths:
    """Counts the processes of a version that were not READY, and are there no longer."""

    def __init__(self) -> None:
        self._starting: set[int] = set()
        self._died: set[int] = set()

    def count(self, version: Version) -> int:
        """How many there are by now."""
        pids = {worker.pid for worker in version.workers if worker.pid is not None}
        self._died |= self._starting - pids
        self._starting = {
            worker.pid for worker in version.workers if worker.pid is not None and worker.state != "READY"
        }
        return len(self._died)


def _meant(request: Managing, before: set[tuple[str, str]], now: Sequence[Version]) -> Version | None:
    """The version that the request is about."""
    if request.is_registration:
        return next((version for version in now if (version.name, version.version) not in before), None)
    name, number = request.parts[1], request.parts[2] if len(request.parts) == 3 else None
    of_model = [version for version in now if version.name == name]
    return next((v for v in of_model if (v.is_default if number is None else v.version == number)), None)


def _done(request: Managing, version: Version) -> str:
    if request.is_registration:
        return f'Model "{version.name}" Version: {version.version} registered with {version.wanted} initial workers'
    number = f", version: {version.version}" if len(request.parts) == 3 else ""
    return f"Workers scaled to {version.wanted} for model: {version.name}{number}"


def _answer(status: int, members: Mapping[str, object]) -> Reply:
    return Reply(status=status, body=json.dumps(members, indent=2).encode() + b"\n")
