"""A gateway in front of TorchServe: its parts made, wired together, opened, and closed in the right order."""

import asyncio
import logging
import ssl
from dataclasses import dataclass, replace

import grpc.aio

from marquee.gateway.access.check import KeyAccess, OpenAccess, first_key_hint
from marquee.gateway.app import build_app
from marquee.gateway.closing import ClosingAccess
from marquee.gateway.config import GatewayConfig
from marquee.gateway.delivery import Deliverer
from marquee.gateway.errors import StartError
from marquee.gateway.gateway import Access, Gateway
from marquee.gateway.grpc_server import start_grpc
from marquee.gateway.http_server import HttpServer
from marquee.gateway.listeners import Listeners, bind
from marquee.gateway.readiness import Proofs
from marquee.gateway.tls import grpc_credentials, http_context
from marquee.gateway.torchserve.backend import TorchServe
from marquee.gateway.torchserve.target import Target
from marquee.gateway.watch import Watch
from marquee.serving.record import Server

logger = logging.getLogger(__name__)

_TICK = 0.05


@dataclass(frozen=True, kw_only=True)
class Doorway:
    """What a gateway has before there is a TorchServe behind it."""

    config: GatewayConfig
    access: Access
    listeners: Listeners
    secure: ssl.SSLContext | None
    most_connections: int
    """HTTP connections that there are descriptors for."""

    @classmethod
    def find(cls, config: GatewayConfig, most_connections: int) -> "Doorway":
        """Reads keys and certificates, and takes the addresses.

        Raises:
            StartError: one of them cannot be used.
        """
        access: Access = OpenAccess()
        if config.keys is None:
            logger.warning("no keys are asked for: everybody who reaches the gateway may use and manage it")
        else:
            access = KeyAccess(config.keys)
            if hint := first_key_hint(config.keys):
                logger.warning(hint)
        secure = None if config.tls is None else http_context(config.tls)
        listeners = bind(config)
        return cls(config=config, access=access, listeners=listeners, secure=secure, most_connections=most_connections)

    def assemble(self, server: Server) -> "Assembly":
        """The gateway, in the event loop that runs."""
        return Assembly(self, server)


class Assembly:
    """See the module. It is made in the event loop that it works in.

    Args:
        doorway: keys, certificates and addresses.
        server: the TorchServe that runs.
    """

    def __init__(self, doorway: Doorway, server: Server) -> None:
        config = doorway.config
        self._config, self._listeners = config, doorway.listeners
        self._backend = TorchServe(Target.of(server))
        self._watch = Watch(self._backend)
        self._proofs = Proofs(self._backend, self._watch, server.store)
        self._gateway = Gateway(
            config=config,
            backend=self._backend,
            access=doorway.access,
            delivery=Deliverer(self._backend, self._watch, config, self._proofs),
            readiness=self._proofs,
        )
        app = build_app(self._gateway)
        self._http = HttpServer(app, doorway.listeners.socket, config, doorway.secure, doorway.most_connections)
        self._grpc: grpc.aio.Server | None = None
        self._grpc_access = ClosingAccess(doorway.access)

    async def open(self) -> None:
        """Returns when both doors are open, and the golden answers were equal.

        Raises:
            StartError: a door cannot be opened, or an answer differs.
        """
        await self._backend.open()
        await self._watch.start()
        credentials = None if self._config.tls is None else grpc_credentials(self._config.tls)
        behind_grpc = replace(self._gateway, access=self._grpc_access)
        self._grpc = await start_grpc(behind_grpc, self._listeners.grpc_address, credentials)
        await self._http.open()
        while not self._proofs.is_ready:
            states = {worker.state for version in self._proofs.versions for worker in version.workers}
            if "DIFFERENT" in states:
                raise StartError("golden answers differ over the gateway's own way; the line before says which")
            await asyncio.sleep(_TICK)

    async def until_broken(self) -> None:
        """Returns when the HTTP server has ended though nobody asked it to."""
        await self._http.until_ended()

    async def host_died(self) -> None:
        """TorchServe's front end has ended: requests under way wait."""
        await self._backend.disconnect()

    async def host_returned(self, server: Server) -> None:
        """It has all its models back: requests under way are sent again."""
        await self._backend.reconnect(Target.of(server))

    def drain(self) -> None:
        """From now on the probes say that the gateway is not ready; requests are still taken."""
        self._proofs.draining = True
        self._http.begin_closing()

    async def hurry(self) -> None:
        """Gives up what is under way."""
        self._http.hurry()
        if self._grpc is not None:
            await self._grpc.stop(None)

    async def close(self, seconds: float) -> int:
        """Takes no more requests, and answers those under way.

        Args:
            seconds: after which what was not answered is given up.

        Returns:
            How many HTTP requests that were.
        """
        lost, _ = await asyncio.gather(self._http.close(seconds), self._close_grpc(seconds))
        await self._watch.stop()
        await self._proofs.close()
        await self._backend.close()
        return lost

    async def _close_grpc(self, seconds: float) -> None:
        if self._grpc is not None:
            await self._grpc_access.close()
            await self._grpc.stop(seconds)
