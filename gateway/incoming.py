"""What comes from the client of one request: its body, and the news that it has gone."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from marquee.gateway.deadline import timeout

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""


class Incoming:
    """Passes the body on, and watches the connection from then on: a client that goes away cancels the work.

    Args:
        scope: of the request.
        receive: of the server.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        headers = {name for name, value in scope["headers"] if value != b"0"}
        self._is_waiting = b"expect" in headers
        """Whether the client sends its body only when somebody wants it."""
        self.is_complete = not headers & {b"content-length", b"transfer-encoding"}
        """Whether all of the body has arrived."""
        self.is_gone = False
        """Whether the client has closed the connection."""
        self.is_given_up = False
        """Whether the rest of the body is not worth waiting for."""

    async def receive(self) -> Message:
        """What an endpoint reads its body by."""
        if self.is_gone:
            return {"type": "http.disconnect"}
        self._is_waiting = False
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif not message.get("more_body", False):
            self.is_complete = True
            if self._watch is None:
                self._watch = asyncio.create_task(self._look())
        return message

    def release(self) -> None:
        """The work is done: nobody needs to know any more whether the client is there."""
        if self._watch is not None:
            self._watch.cancel()

    async def discard(self, most: int, seconds: float) -> None:
        """Reads what is left of a body that nobody wants, so that the client can read why.

        Whoever closes a connection on which something is left unread resets it, and the answer may be lost with it.

        Args:
            most: bytes.
            seconds: for all of them.
        """
        if self._is_waiting or self.is_given_up:
            return
        discarded = 0
        try:
            async with timeout(seconds):
                while discarded < most and not self.is_complete and not self.is_gone:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.is_gone = True
                    else:
                        discarded += len(message.get("body", b""))
                        self.is_complete = not message.get("more_body", False)
        except asyncio.TimeoutError:
            pass

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if self._task is not None:
            self._task.cancel()
