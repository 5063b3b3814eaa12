"""One method of the gRPC doors: its path, who may call it, and what answers.

A method cannot be made without saying who may call it, and the server answers nothing but these, so no method can be
forgotten by the check.
"""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from marquee.gateway import errors
from marquee.gateway.access.caller import Caller
from marquee.gateway.access.scope import Scope
from marquee.gateway.backend import FORWARDED_HEADERS, Reply
from marquee.gateway.errors import FORBIDDEN, GatewayError, Kind

_OF_BODIES = ("content-encoding", "inference-header-content-length")
_FORWARDED = frozenset(FORWARDED_HEADERS) - frozenset(_OF_BODIES)
_BY_STATUS = {kind.status: kind.grpc for kind in vars(errors).values() if isinstance(kind, Kind)}


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One call of a client, and who it is from."""

    caller: Caller
    context: "grpc.aio.ServicerContext[Any, Any]"

    @property
    def seconds(self) -> float | None:
        """Until the client's deadline; None: it named none."""
        remaining: float | None = self.context.time_remaining()
        return None if remaining is None or math.isinf(remaining) else max(remaining, 0.0)

    @property
    def forwarded(self) -> dict[str, str]:
        """The call's metadata that reach the handler."""
        metadata = self.context.invocation_metadata() or ()
        return {name: str(value) for name, value in metadata if name in _FORWARDED}

    def demand(self, scope: Scope) -> None:
        """For what only some requests of a method ask.

        Raises:
            GatewayError: ``FORBIDDEN``: the caller's key does not allow it.
        """
        if scope not in self.caller.scopes:
            raise GatewayError(FORBIDDEN, f"the key does not allow {scope!r}")


Unary = Callable[[Any, Visit], Awaitable[Message]]
"""One message -> one message. On the wire, a stream of one answer is the same."""
Streaming = Callable[[AsyncIterator[Any], Visit], AsyncIterator[Message]]
"""Messages -> messages; each may raise GatewayError, which ends the call."""


@dataclass(frozen=True, kw_only=True)
class Rpc:
    """See the module."""

    path: str
    """Such as ``/inference.GRPCInferenceService/ModelInfer``."""
    scope: Scope | None
    """What a key must allow; None: everybody may, without a key."""
    request: type[Message]
    """Class of the message that comes."""
    unary: Unary | None = None
    streaming: Streaming | None = None
    """Where messages come as a stream; exactly one of both is given."""

    def __post_init__(self) -> None:
        if (self.unary is None) == (self.streaming is None):
            raise ValueError(f"{self.path}: expected unary or streaming")


def status_name(status: int) -> str:
    """HTTP status of a refusal by the handler or the host -> name of the gRPC status."""
    return _BY_STATUS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")


def error_of(reply: Reply) -> GatewayError:
    """A reply that is a refusal, as what a door raises.

    Args:
        reply: with a status of at least 400; ``{"error": "text"}``, ``{"error": {"message"}}`` or ``{"message"}``.
    """
    try:
        document = json.loads(reply.body)
        error = document.get("error", document.get("message"))
        message = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        message = None
    kind = Kind(code=f"http_{reply.status}", status=reply.status, grpc=status_name(reply.status), title="Refused")
    return GatewayError(kind, str(message or f"the model's host answered with the status {reply.status}"))
