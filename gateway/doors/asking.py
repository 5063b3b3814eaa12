"""From a request to the handler's reply, alike for every protocol over HTTP."""

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from marquee.gateway.access.caller import Caller
from marquee.gateway.backend import FORWARDED_HEADERS, Call, Reply, Verb
from marquee.gateway.body import read_body
from marquee.gateway.doors.json_answer import forward
from marquee.gateway.errors import FORBIDDEN, GatewayError
from marquee.gateway.form_fields import fields_of
from marquee.gateway.gateway import Gateway
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import unpack_fields
from marquee.handlers.explain.request import may_be_asked, parse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

OCTETS = "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"
_FORM_BODY = re.compile(rb"[A-Za-z0-9_.-]{1,64}=[ -~\r\n\t]*")
"""One or more fields: what is no printable ASCII is percent-encoded in a form."""
_FORWARDED = frozenset(name.encode() for name in FORWARDED_HEADERS)
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""How JPEG and PNG files begin, in which nothing can be asked: neither JSON nor what is packed begins like this."""
_LARGE = 1 << 20
"""Bytes of a body that is looked into in a thread: it would hold up others for milliseconds."""


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
    if verb == "predictions" and "explain" not in caller.scopes:
        await _refuse_explanations(body, content_type, caller)
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
    if content_type.partition(";")[0].strip().lower() == _FORM and not _FORM_BODY.fullmatch(body):
        return OCTETS
    return content_type


def forwarded(request: "Request") -> dict[str, str]:
    """The headers that reach the handler, with the request's id."""
    headers = {
        name.decode("ascii"): value.decode("latin-1") for name, value in request.scope["headers"] if name in _FORWARDED
    }
    headers["x-request-id"] = request.state.request_id
    return headers


async def _refuse_explanations(body: bytes, content_type: str, caller: Caller) -> None:
    """A prediction may ask for an explanation by one of its fields, which takes as long as hundreds of predictions."""
    if body.startswith(_IMAGES) and not content_type.lower().startswith((_FORM, "multipart/")):
        return
    is_packed = body[:1] in (b"\x1f", b"\x78")
    # The word may be written with escapes.
    if not is_packed and b"explain" not in body and b"\\u" not in body:
        return
    asks = _asks_explanation
    is_long = is_packed or len(body) > _LARGE
    if await asyncio.to_thread(asks, body, content_type) if is_long else asks(body, content_type):
        raise GatewayError(FORBIDDEN, f"the key of {caller.name} does not allow explain, which the request asks for")


def _asks_explanation(body: bytes, content_type: str) -> bool:
    """As the handler finds out; it does not know of keys."""
    try:
        fields = unpack_fields(fields_of(body, content_type))
        return may_be_asked(fields) and parse(fields, False) is not None
    except InputError:
        return False  # the handler refuses it
