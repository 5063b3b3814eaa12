"""Headers of every answer: the request's id, and what tells browsers to be careful with it."""

import re
import secrets

from marquee.gateway.incoming import App, Message, Receive, Scope, Send

REQUEST_ID = b"x-request-id"
_MAY_BE_AN_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
}
"""For answers that have none of their own."""


class Headers:
    """An ASGI middleware.

    Args:
        app: what answers. Its ``state`` has the ``request_id``.
        shared: whether pages of other origins may read answers: CORS says which.
    """

    def __init__(self, app: App, shared: bool = False) -> None:
        self._app = app
        self._headers = {
            name: value
            for name, value in SECURITY_HEADERS.items()
            if not (shared and name == b"cross-origin-resource-policy")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and completes the headers of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode("ascii")

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                headers += [(name, value) for name, value in self._headers.items() if name not in present]
                headers.append((REQUEST_ID, request_id))
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, complete)


def _request_id(scope: Scope) -> bytes:
    """The client's own, where it can be written into a log as it is, or a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _MAY_BE_AN_ID.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(16).encode()
