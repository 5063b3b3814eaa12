"""A gateway with both of its servers in this process, for clients that block."""

import socket
from pathlib import Path
from typing import Any

from marquee.gateway.app import build_app
from marquee.gateway.http_server import HttpServer
from tests.grpc_gateway import GrpcGateway


class BothDoors(GrpcGateway):
    """As :class:`GrpcGateway`, with the doors over HTTP beside.

    Args:
        archives: by the models' names.
        options: of :class:`GrpcGateway`.
    """

    def __init__(self, archives: dict[str, "Path | list[Path]"], **options: Any) -> None:
        super().__init__(archives, **options)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.http_port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.http_port}"

    async def _start(self) -> None:
        await super()._start()
        self._http = HttpServer(build_app(self.gateway), self._listener, self._config)
        await self._http.open()

    async def _stop(self) -> None:
        await self._http.close(1)
        await super()._stop()
