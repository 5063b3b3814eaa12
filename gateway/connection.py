"""One HTTP connection: closed when its client sends too slowly or is silent for too long, and kept from no request.

uvicorn closes a connection that is silent after an answer, but not one that has never sent anything, that sends the
head of a request byte by byte, or that goes on sending a body after its answer. Each of
them would hold a place for ever.
"""

import fcntl
import termios
from asyncio import TimerHandle, Transport
from dataclasses import dataclass, field
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_GOODBYE_SECONDS = 1.0
"""For a client to answer TLS's goodbye; one that keeps the connection for its next request does not read it."""


@dataclass(kw_only=True)
class Connections:
    """What the connections of a server share."""

    most: int
    """At a time. One more takes the place of the one that has been idle for longest, else it is closed itself."""
    head_seconds: float
    """From the first byte of a request to the end of its head, and for what a client sends after its answer."""
    idle_seconds: float
    """Without a request."""
    is_closing: bool = False
    """Whether each answer is the last one on its connection."""
    idle: "dict[Connection, None]" = field(default_factory=dict)
    """Those without a request, the one that has been so for longest first."""

    def close_idle(self) -> None:
        """Closes the connections without a request; an answer that its client is still taking is sent whole."""
        for connection in list(self.idle):
            connection.finish()


class HttpConfig(Config):
    """uvicorn's configuration, with what the connections share."""

    connections: Connections


class Connection(HttpToolsProtocol):
    """See the module."""

    config: HttpConfig

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared: Connections = config.connections
        self._timer: TimerHandle | None = None
        self._reads_head = self._reads_body = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self._shared.most:
            longest = next(iter(self._shared.idle), self)
            longest.give_up()
        if not transport.is_closing():
            self._be_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._be_busy()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._reads_head = self._reads_body = True
        if not self._is_answering():  # else it is pipelined, and waits
            self._wait(self._shared.head_seconds)

    def on_headers_complete(self) -> None:
        """The end of a request's head; from here on the application watches the time."""
        self._reads_head = False
        self._be_busy()
        super().on_headers_complete()
        if self._shared.is_closing and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The end of a request's body."""
        self._reads_body = False
        super().on_message_complete()
        if not self._is_answering():  # it was answered before
            self._be_idle()

    def on_response_complete(self) -> None:
        """The end of an answer."""
        super().on_response_complete()
        if self._is_answering():
            return
        if self.transport.is_closing():
            self._leave_soon()
        elif self._reads_body:
            self._wait(self._shared.head_seconds)
        else:
            self._be_idle()

    def shutdown(self) -> None:
        """The answer under way is the last one."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def give_up(self) -> None:
        """Closes the connection, also where the client does not take what was sent to it."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self._be_busy()
            self.transport.abort()
        else:
            self._close()
            self._timer = self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)

    def finish(self) -> None:
        """Closes the connection when its client has taken what was sent to it."""
        self._close()
        self._leave_soon()

    def _close(self) -> None:
        """TLS would wait half a minute for the client's goodbye; therefore the transport is aborted some time later."""
        self._be_busy()
        if not self.transport.is_closing():
            if self._reads_head:
                self.transport.write(_TOO_SLOW)
            self.transport.close()

    def _leave_soon(self) -> None:
        """Aborts the closing transport after a moment, or as soon as its client has taken what was sent to it."""
        self._timer = self.loop.call_later(_GOODBYE_SECONDS, self._abort_when_taken)

    def _abort_when_taken(self) -> None:
        if _is_unsent(self.transport):
            self._leave_soon()
        else:
            self.transport.abort()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _be_idle(self) -> None:
        self._wait(self._shared.idle_seconds)
        self._shared.idle[self] = None

    def _be_busy(self) -> None:
        self._shared.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        """Closes the connection then, unless something happens."""
        self._be_busy()
        self._timer = self.loop.call_later(seconds, self.give_up)


def _is_unsent(transport: Transport) -> bool:
    """Whether some of what was written has not arrived at the other machine, or that is not known.

    What TLS has handed to the transport below is in no buffer that can be asked for; while there is any, the system's
    own buffer is not empty.
    """
    if transport.get_write_buffer_size():
        return True
    unacknowledged = bytearray(4)
    try:
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, unacknowledged)
    except (AttributeError, OSError, ValueError):  # a system that does not say, or closed a moment ago
        return True
    return any(unacknowledged)
