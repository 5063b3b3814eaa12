"""One operation of the HTTP doors: its route, who may call it, and how it is documented.

An operation cannot be made without saying who may call it, and an application serves nothing but operations, so no
route can be forgotten by the check.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from marquee.gateway.access.scope import Scope

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from marquee.gateway.errors import GatewayError

Endpoint = Callable[["Request"], Awaitable["Response"]]
Refusal = Callable[["GatewayError"], Mapping[str, Any]]


def protocol_error(error: "GatewayError") -> Mapping[str, Any]:
    """``error`` as a text, which the Open Inference Protocol, KServe and TF Serving want, beside RFC 9457's members."""
    return {"error": error.message, **error.problem()}


def torchserve_error(error: "GatewayError") -> Mapping[str, Any]:
    """``error`` as an object, which TorchServe's handlers of this project give, beside RFC 9457's members."""
    return {"error": {"code": error.kind.code, "message": error.message}, **error.problem()}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """See the module."""

    path: str
    """In Starlette's syntax, such as ``/v2/models/{name}/infer``."""
    methods: tuple[str, ...]
    """HEAD is there wherever GET is."""
    endpoint: Endpoint
    scope: Scope | None
    """What a key must allow; None: everybody may, without a key."""
    refusal: Refusal
    """Body of the answer to a request that the gateway refuses."""
    tag: str
    """The protocol, as a heading of the documentation."""
    summary: str
    """One line."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Media type -> JSON schema of the body; none: there is no body."""
    is_body_required: bool = True
    """Whether a request without a body, where there may be one, is an error."""
    responses: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Status -> ``{media type: JSON schema}``, 0: any; those of refusals are added for all operations."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    """OpenAPI's parameters beside those of the path."""
    raw_path: bool = False
    """Whether a parameter of the path may contain slashes (``{path:path}``)."""
