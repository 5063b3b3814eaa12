"""A gateway's gRPC server in this process, with the archives' own handlers behind it, for clients that block."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import grpc

from marquee.gateway.access.check import OpenAccess
from marquee.gateway.config import GatewayConfig
from marquee.gateway.gateway import Access, Gateway
from marquee.gateway.grpc_server import start_grpc
from marquee.gateway.in_process import InProcess


class GrpcGateway:
    """It runs in an event loop of its own, in a thread, inside a ``with`` block.

    Args:
        archives: by the models' names.
        config: of the gateway.
        access: None: everybody may do everything.
    """

    def __init__(
        self,
        archives: Mapping[str, Path | list[Path]],
        config: GatewayConfig | None = None,
        access: Access | None = None,
    ) -> None:
        self._backend = InProcess(archives)
        self._config = config or GatewayConfig()
        self._access = access or OpenAccess()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.gateway: Gateway

    def __enter__(self) -> "GrpcGateway":
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
        await self._backend.open()
        self.gateway = await self._backend.gateway(self._config, self._access)
        self.server = await start_grpc(self.gateway, self.address, None)

    async def _stop(self) -> None:
        await self.server.stop(0)
        await self._backend.close()

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1), *options])


def status_of(call: Callable[[], object]) -> tuple[str, str]:
    """Name of the gRPC status that a call ends with, and its words."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    return "OK", ""


def wait_until(holds: Callable[[], object]) -> None:
    """Returns as soon as something holds; fails after a minute."""
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
