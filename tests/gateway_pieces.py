"""The parts of the gateway that deliver, in front of a real TorchServe, for tests in an event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from marquee.gateway.backend import Call, Reply, Version
from marquee.gateway.config import GatewayConfig
from marquee.gateway.delivery import Deliverer
from marquee.gateway.readiness import Proofs
from marquee.gateway.torchserve.backend import TorchServe
from marquee.gateway.torchserve.target import Target
from marquee.gateway.watch import Watch
from marquee.serving.record import Server

PATIENCE = 240.0
"""Seconds; what takes longer does not happen."""


@dataclass
class Pieces:
    """See the module."""

    server: Server
    backend: TorchServe
    watch: Watch
    proofs: Proofs
    deliverer: Deliverer
    model: str = "digits"

    async def ask(
        self, body: bytes, version: str | None = None, seconds: float = PATIENCE, verb: Any = "predictions"
    ) -> Reply:
        """One call."""
        return await self.deliverer.deliver(Call(model=self.model, version=version, body=body, verb=verb), seconds)

    def found(self, version: str | None = None) -> Version:
        """A version with its states."""
        found = self.proofs.find(self.model, version)
        assert found is not None, f"{self.model} {version}"
        return found

    def pids(self, version: str | None = None) -> list[int]:
        """Of the workers that are READY and proven."""
        found = self.proofs.find(self.model, version)
        workers = () if found is None else found.workers
        return [worker.pid for worker in workers if worker.state == "READY" and worker.pid is not None]

    async def ready(self, workers: int = 1, seconds: float = PATIENCE) -> list[int]:
        """The workers, once there are so many."""
        await happens(lambda: len(self.pids()) == workers and self.proofs.is_ready, seconds)
        return self.pids()

    async def scale(self, workers: int) -> list[int]:
        """As :meth:`ready`, after the host was told how many there are to be."""
        path = f"/models/{self.model}"
        query = {"min_worker": str(workers), "max_worker": str(workers), "synchronous": "true"}
        reply = await self.backend.manage("PUT", path, query)
        if reply.status == 500 and b"Job.isControlCmd" in reply.body:  # TorchServe's own: see docs/troubleshooting.md
            reply = await self.backend.manage("PUT", path, query)
        assert reply.status == 200, reply
        return await self.ready(workers)


@asynccontextmanager
async def pieces(server: Server, **options: Any) -> AsyncIterator[Pieces]:
    """The parts, wired as the gateway wires them.

    Args:
        server: the TorchServe that runs.
        options: of :class:`GatewayConfig`.
    """
    backend = TorchServe(Target.of(server))
    watch = Watch(backend)
    proofs = Proofs(backend, watch, server.store)
    deliverer = Deliverer(backend, watch, GatewayConfig(**options), proofs)
    await backend.open()
    try:
        await watch.start()
        yield Pieces(server, backend, watch, proofs, deliverer)
    finally:
        await watch.stop()
        await proofs.close()
        await backend.close()


async def happens(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Waits for a condition, and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not happen in {seconds} s"
        await asyncio.sleep(0.02)
    return found


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its exit code to be read does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
