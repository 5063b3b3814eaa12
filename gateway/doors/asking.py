"""From a request to the handler's reply, alike for every protocol over HTTP."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from marquee.gateway.access.caller import Caller
from marquee.gateway.backend import FORWARDED_HEADERS, Call, Reply, Verb
from marquee.gateway.body import read_body
from marquee.gateway.doors.explanation_scope import asks_explanation
from marquee.gateway.doors.json_answer import forward
from marquee.gateway.errors import FORBIDDEN, GatewayError
from marquee.gateway.form_fields import FORM
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

OCTETS = "application/octet-stream"
_FORM_BODY = re.compile(rb"[A-Za-z0-9_.-]{1,64}=[ -~\r\n\t]*")
"""One or more fields: what is no printable ASCII is percent-encoded in a form."""
_FORWARDED = frozenset(name.encode() for name in FORWARDED_HEADERS)


async def ask(
    gateway: Gateway,
    request: "Request",
    model: str,
    version: str | None = None,
    *,
    verb: Verb = "predictions",
    body: bytes | None = None,
    content_type: str = OCTETS,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """The handler's reply to a request.

    Args:
        gateway: whose model it is.
        request: its headers, and its body where ``body`` is None.
        model: its name.
        version: None: the default version.
        verb: what is asked.
        body: of the call; None: the request's.
        content_type: of the body, as the handler is told. Where nobody needs another one, it is that of octets: the
            handler finds out by itself, and TorchServe's worker logs a trace for JSON that is none.
        headers: for the handler, beside the request's.

    Raises:
        GatewayError: see :meth:`Gateway.ask`; ``FORBIDDEN``: the body asks for an explanation, which the key does not
            allow.
    """
    caller: Caller = request.state.caller
    if body is None:
        body = await read_body(request, gateway.config)
    # A prediction may ask for an explanation by one of its fields, which takes as long as hundreds of predictions.
    is_free = verb != "predictions" or "explain" in caller.scopes
    if not is_free and await asks_explanation(body, content_type):
        raise GatewayError(FORBIDDEN, f"the key of {caller.name} does not allow explain, which the request asks for")
    told = {**forwarded(request), **(headers or {})}
    call = Call(model=model, version=version, body=body, content_type=content_type, verb=verb, headers=told)
    return await gateway.ask(call, caller)


async def pass_on(
    gateway: Gateway, request: "Request", model: str, version: str | None = None, verb: Verb = "predictions"
) -> "Response":
    """The handler's reply as it is, to a body as it is.

    Raises:
        GatewayError: see :func:`ask`.
    """
    body = await read_body(request, gateway.config)
    content_type = sent_type(request, body)
    return forward(await ask(gateway, request, model, version, verb=verb, body=body, content_type=content_type))


def sent_type(request: "Request", body: bytes) -> str:
    """What the handler is told about a body that came as it is.

    ``curl --data-binary @photo.jpg`` and ``curl -d '{...}'`` call what they send a form. TorchServe answers 500 to
    such files; what is no form is passed on as octets, in which the handler recognises images, JSON and tables.
    """
    content_type: str = request.headers.get("content-type", "").strip() or OCTETS
    if content_type.partition(";")[0].strip().lower() == FORM and not _FORM_BODY.fullmatch(body):
        return OCTETS
    return content_type


def forwarded(request: "Request") -> dict[str, str]:
    """The headers that reach the handler, with the request's id."""
    headers = {
        name.decode("ascii"): value.decode("latin-1") for name, value in request.scope["headers"] if name in _FORWARDED
    }
    headers["x-request-id"] = request.state.request_id
    return headers
