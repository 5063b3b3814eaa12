"""What the gateway itself refuses. A door translates these into the words of its protocol, in one place."""

from dataclasses import dataclass
from typing import Any

from marquee.serving.errors import OperationError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of refusal."""

    code: str
    """Stable, for programs."""
    status: int
    """HTTP status."""
    grpc: str
    """Name of the gRPC status."""
    title: str
    """What RFC 9457 calls the title: the same for every occurrence."""


UNAUTHENTICATED = Kind(code="unauthenticated", status=401, grpc="UNAUTHENTICATED", title="A key is needed")
FORBIDDEN = Kind(code="forbidden", status=403, grpc="PERMISSION_DENIED", title="The key does not allow this")
RATE_LIMITED = Kind(code="rate_limited", status=429, grpc="RESOURCE_EXHAUSTED", title="Too many requests")
BAD_REQUEST = Kind(code="bad_request", status=400, grpc="INVALID_ARGUMENT", title="The request cannot be read")
NOT_FOUND = Kind(code="not_found", status=404, grpc="NOT_FOUND", title="No such model, version or path")
METHOD_NOT_ALLOWED = Kind(code="method_not_allowed", status=405, grpc="UNIMPLEMENTED", title="Method not allowed")
TOO_LARGE = Kind(code="too_large", status=413, grpc="RESOURCE_EXHAUSTED", title="The request is too large")
TOO_SLOW = Kind(code="request_too_slow", status=408, grpc="DEADLINE_EXCEEDED", title="The body did not arrive in time")
NOT_SUPPORTED = Kind(code="not_supported", status=501, grpc="UNIMPLEMENTED", title="Not supported")
BUSY = Kind(code="busy", status=503, grpc="UNAVAILABLE", title="Too many requests wait")
NOT_READY = Kind(code="not_ready", status=503, grpc="UNAVAILABLE", title="No worker is ready")
NO_ANSWER = Kind(code="no_answer", status=504, grpc="DEADLINE_EXCEEDED", title="No answer in time")
INTERNAL = Kind(code="internal_error", status=500, grpc="INTERNAL", title="An error of the gateway")


class GatewayError(Exception):
    """A request is refused.

    Args:
        kind: which kind of refusal.
        message: one sentence for people, without paths of the file system and without secrets.
        retry_after: seconds after which the request may be sent again; None: it makes no sense to repeat it.
    """

    def __init__(self, kind: Kind, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after

    def problem(self) -> dict[str, Any]:
        """The members of RFC 9457; a protocol adds its own ``error``."""
        return {
            "type": "about:blank",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.message,
            "code": self.kind.code,
        }


class StartError(OperationError):
    """The gateway cannot start, or cannot go on; the message is one line for people."""
