"""What the gateway needs of a host of models. The protocols know nothing else, so that a host can be replaced.

:mod:`marquee.gateway.torchserve.backend` is TorchServe; :mod:`marquee.gateway.in_process` answers in this process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Verb = Literal["predictions", "explanations"]

FORWARDED_HEADERS = ("content-encoding", "inference-header-content-length", "traceparent", "tracestate", "x-request-id")
"""Headers of a client that reach the handler, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to a model, as the handler reads it (see :mod:`marquee.handlers.core.payload`)."""

    model: str
    version: str | None = None
    """None: the default version."""
    body: bytes
    content_type: str = "application/octet-stream"
    verb: Verb = "predictions"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of :data:`FORWARDED_HEADERS`, in lower case."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: expected a name")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The handler's answer, or its refusal of the request."""

    status: int
    """HTTP status; 4xx and 5xx with the handler's own ``{"error": {"code", "message"}}``."""
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer, in lower case, where they mean something to a client, such as
    ``inference-header-content-length``."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One process, or thread, that answers."""

    id: str
    pid: int | None
    state: str
    """``READY``, or why not: ``UNLOADING``, ``DEAD``, ``STOPPED`` and others."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a model on the host."""

    name: str
    version: str
    is_default: bool
    workers: tuple[Worker, ...]
    pending: int = 0
    """Requests in its queue."""
    archive: str | None = None
    """File name in the store."""
    wanted: int | None = None
    """How many workers it is to have; None: the host does not say."""

    @property
    def ready_workers(self) -> int:
        """How many workers can answer."""
        return sum(worker.state == "READY" for worker in self.workers)


class LostError(Exception):
    """An attempt got no answer: the worker or the host died, or forgot it. The request may be sent again."""


class UnreachedError(LostError):
    """The host took nothing: it does not listen, or the version has no worker."""


class FullError(Exception):
    """The host's queue is full; nothing was computed."""


class AbsentError(Exception):
    """The host does not have the model, or not this version; the message names it."""


class Backend(Protocol):
    """A host of models. Its methods are called from one event loop."""

    async def open(self) -> None:
        """Connects to a host that runs. The host's own life is not the business of this object."""

    async def close(self) -> None:
        """Gives up all connections; attempts under way end with :class:`LostError`."""

    async def ask(self, call: Call, timeout: float) -> Reply:
        """One attempt.

        Args:
            call: what is asked.
            timeout: seconds after which the attempt is given up.

        Raises:
            LostError: it was not answered, and may be sent again.
            FullError: the queue is full.
            AbsentError: there is no such model or version.
        """

    async def versions(self) -> Sequence[Version]:
        """Every version of every model, with the state of its workers.

        Raises:
            LostError: the host does not answer.
        """

    async def describe(self, name: str, version: str | None = None) -> Mapping[str, Any]:
        """What the handler says of itself: ``model``, ``task``, ``input``, ``tensors`` ...

        Raises:
            LostError: no worker answers.
            AbsentError: there is no such model or version.
        """

    async def manage(self, method: str, path: str, query: Mapping[str, str], body: bytes = b"") -> Reply:
        """A request of the host's own management API, passed on as it is; 501 where the host has none.

        Args:
            method: HTTP method.
            path: such as ``/models/photos``.
            query: the URL's parameters.
            body: of the request.

        Raises:
            LostError: the host does not answer.
        """

    async def metrics(self) -> str:
        """The host's metrics, in the text format of Prometheus; empty where it has none."""
