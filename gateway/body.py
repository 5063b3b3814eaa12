"""Reads the body of a request: not more than allowed, and not for longer than allowed."""

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from marquee.gateway.config import GatewayConfig
from marquee.gateway.deadline import timeout
from marquee.gateway.errors import BAD_REQUEST, TOO_LARGE, TOO_SLOW, GatewayError

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_body(request: "Request", config: GatewayConfig) -> bytes:
    """The whole body.

    Args:
        request: whose body nobody has read yet.
        config: ``max_request_bytes`` and ``body_seconds``.

    Raises:
        GatewayError: ``TOO_LARGE``, before it is read where the client says how long it is; ``TOO_SLOW``;
            ``BAD_REQUEST``: its length is not a number.
        ClientDisconnect: the client has gone.
    """
    most = config.max_request_bytes
    announced = request.headers.get("content-length")
    if announced is not None:
        if not (announced.isascii() and announced.isdigit()):
            raise GatewayError(BAD_REQUEST, "Content-Length: expected a number")
        if len(announced) > 18 or int(announced) > most:
            raise GatewayError(TOO_LARGE, f"the request has {announced[:18]} bytes; at most {most} are taken")
    chunks: list[bytes] = []
    received = 0
    try:
        async with timeout(config.body_seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                received += len(chunk)
                if received > most:
                    raise GatewayError(TOO_LARGE, f"the request has more than {most} bytes")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except asyncio.TimeoutError as error:
        text = f"{received} bytes of the body arrived within {config.body_seconds:g} s; the rest did not"
        raise GatewayError(TOO_SLOW, text) from error
