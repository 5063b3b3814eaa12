"""uvicorn without its signal handlers, and with an end that loses no request.

When uvicorn ends, it closes its listening socket with the connections that wait there to be accepted, and every
connection that has just no request, also where one is on its way. Both are requests that the client has sent and that
nobody answers. Here the waiting ones are accepted first, connections are given a moment, and every answer says that
it is the last one on its connection.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from marquee.gateway.config import GatewayConfig
from marquee.gateway.connection import Connection, Connections, HttpConfig
from marquee.gateway.errors import StartError
from marquee.gateway.listeners import take_no_more

_BACKLOG = 2_048
_ON_THE_WAY_SECONDS = 1.0
"""For requests that were sent before the end began."""
_HANDSHAKE_SECONDS = 0.5
"""For connections whose first packet has come: several times what a packet takes around the world."""
_LAST_SECONDS = 1.0
"""For the application to end work whose client has gone."""
_TICK = 0.02


class HttpServer(uvicorn.Server):
    """See the module.

    Args:
        app: an ASGI application.
        listener: a bound socket; the server closes it.
        config: the limits.
        secure: TLS; None: without.
        most: connections at a time.
    """

    config: HttpConfig

    def __init__(
        self,
        app: Any,
        listener: socket.socket,
        config: GatewayConfig,
        secure: ssl.SSLContext | None = None,
        most: int | None = None,
    ) -> None:
        settings = HttpConfig(
            app,
            http=Connection,
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(config.idle_seconds) + 1,  # Connection is more exact
            ssl_context_factory=None if secure is None else lambda *_: secure,
        )
        settings.connections = Connections(
            most=min(config.max_connections, most or config.max_connections),
            head_seconds=config.body_seconds,
            idle_seconds=config.idle_seconds,
        )
        super().__init__(settings)
        self._secure, self._socket = secure, listener
        self._listener = listener.dup()  # so that what waits there outlives the one that the loop closes
        self._task: asyncio.Task[None] | None = None
        self._drain_seconds, self._lost = 0.0, 0

    async def open(self) -> None:
        """Returns when the server listens.

        Raises:
            StartError: it cannot.
        """
        self._task = asyncio.create_task(self.serve(sockets=[self._socket]), name="http")
        while not self.started:
            if self._task.done():
                error = self._task.exception()
                raise StartError(f"HTTP cannot be served: {error or 'the application did not start'}") from error
            await asyncio.sleep(_TICK)

    async def until_ended(self) -> None:
        """Returns when it has ended, by :meth:`close` or by an error."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def begin_closing(self) -> None:
        """From now on every answer is the last one on its connection; new connections are still taken."""
        self.config.connections.is_closing = True
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def close(self, seconds: float) -> int:
        """Stops to listen, and answers what is under way.

        Args:
            seconds: after which what was not answered is given up.

        Returns:
            How many requests that were.
        """
        if self._task is None:
            self._listener.close()
            self._socket.close()
            return 0
        self._drain_seconds = seconds
        self.begin_closing()
        self.should_exit = True
        await self._task
        return self._lost

    def hurry(self) -> None:
        """Gives up what is under way."""
        self.force_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals have another owner."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn calls at the end."""
        deadline = time.monotonic() + self._drain_seconds
        await self._stop_listening()
        await self._wait(min(deadline, time.monotonic() + _ON_THE_WAY_SECONDS))
        self.config.connections.close_idle()
        await self._wait(deadline)
        self._lost = len(self.server_state.tasks)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := list(self.server_state.tasks):  # the application learns that its clients have gone
            _, endless = await asyncio.wait(tasks, timeout=_LAST_SECONDS)
            for task in endless:
                task.cancel()
        await self.lifespan.shutdown()

    async def _stop_listening(self) -> None:
        take_no_more(self._listener)
        for server in self.servers:
            server.close()  # the loop accepts no more; what it has not accepted yet waits at the other descriptor
        self._listener.setblocking(False)
        taken = self._take_waiting()
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        taken += self._take_waiting()
        self._listener.close()
        await asyncio.gather(*taken, return_exceptions=True)

    def _take_waiting(self) -> "list[asyncio.Task[Any]]":
        """Those that wait to be accepted become connections."""
        loop, taken = asyncio.get_running_loop(), []
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connecting = loop.connect_accepted_socket(self._connection, connection, ssl=self._secure)
                taken.append(loop.create_task(connecting))
        return taken

    def _connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state)

    async def _wait(self, deadline: float) -> None:
        """Until there is no connection, at most until then."""
        while not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(_TICK)
            if not self.server_state.connections and not self.server_state.tasks:
                return
