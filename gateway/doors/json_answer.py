"""Documents as JSON answers, and the handler's replies as they are."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from starlette.responses import Response

    from marquee.gateway.backend import Reply

JSON = "application/json"


def dump(document: Any) -> bytes:
    """The document as JSON, whatever characters a client has put into it."""
    try:
        return orjson.dumps(document)
    except TypeError:  # half of a surrogate pair, which UTF-8 does not have
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
    """A JSON answer."""
    from starlette.responses import Response

    return Response(dump(document), status, headers, JSON)


def forward(reply: "Reply") -> "Response":
    """The handler's reply, unchanged."""
    from starlette.responses import Response

    headers = {"content-type": reply.content_type, **reply.headers}
    if reply.status == 503:
        headers.setdefault("retry-after", "1")
    return Response(reply.body, reply.status, headers)
