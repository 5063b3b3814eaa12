"""A gateway's HTTP server in this process, with the archives' own handlers behind it, for clients that block."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from marquee.gateway.access.check import OpenAccess
from marquee.gateway.app import build_app
from marquee.gateway.config import GatewayConfig
from marquee.gateway.gateway import Access, Gateway
from marquee.gateway.http_server import HttpServer
from marquee.gateway.in_process import InProcess


class HttpGateway:
    """It runs in an event loop of its own, in a thread, inside a ``with`` block.

    Args:
        archives: by the models' names.
        access: None: everybody may do everything.
        around: what takes the place of the gateway, such as one whose delivery waits.
        settings: of :class:`GatewayConfig`.
    """

    def __init__(
        self,
        archives: Mapping[str, Path | list[Path]],
        access: Access | None = None,
        around: Callable[[Gateway], Gateway] = lambda gateway: gateway,
        **settings: Any,
    ) -> None:
        self.backend = InProcess(archives)
        self._access = access or OpenAccess()
        self._around = around
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.config = GatewayConfig(**{"port": self.port, **settings})
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self.gateway: Gateway

    def __enter__(self) -> "HttpGateway":
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives that runs beside the server."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(300)

    async def _start(self) -> None:
        await self.backend.open()
        self.gateway = self._around(await self.backend.gateway(self.config, self._access))
        self._server = HttpServer(build_app(self.gateway), self._listener, self.config)
        await self._server.open()

    async def _stop(self) -> None:
        await self._server.close(1)
        await self.backend.close()

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)
