"""The watch of the workers: what the host says of them, and what their processes say themselves.

A host learns late that a worker has died or was stopped, and some never do. So the state of each worker's process is
looked at directly, four times a second, which costs some microseconds for each.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import psutil

from marquee.gateway import metrics
from marquee.gateway.backend import Backend, LostError, UnreachedError, Version, Worker
from marquee.gateway.deadline import timeout
from marquee.serving.processes import worker_state

logger = logging.getLogger(__name__)

ASK_SECONDS = 0.5
"""Between two questions to the host."""
LOOK_SECONDS = 0.25
"""Between two looks at the processes."""
STOPPED_SECONDS = 3.0
"""After which a worker that was stopped is ended, so that the host starts it anew."""
ASK_AGAIN_SECONDS = 1.0
"""What the host has to say why a worker has ended, before that counts."""
MOST_SILENT = 3
"""Questions in a row that the host may leave without an answer while it listens."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A worker that answers no more."""

    version: Version
    """With the workers that are left."""
    worker: Worker
    """``DEAD``, ``STOPPED``, ``GONE`` (the host has it no longer) or ``UNREACHABLE`` (nor does it have a host)."""


class Known(Protocol):
    """What :class:`~marquee.gateway.delivery.Deliverer` needs to know of versions."""

    def find(self, name: str, version: str | None = None) -> Version | None:
        """A version, or the default one, as last seen; a worker that may answer is ``READY``."""


class Watch:
    """Watches one host, from :meth:`start` to :meth:`stop`; :attr:`versions` are known when ``start`` returns.

    Args:
        backend: the host.
        stopped_seconds: after which a worker that was stopped is ended.
    """

    def __init__(self, backend: Backend, *, stopped_seconds: float = STOPPED_SECONDS) -> None:
        self._backend = backend
        self._stopped_seconds = stopped_seconds
        self._told: tuple[Version, ...] = ()
        self._versions: dict[tuple[str, str], Version] = {}
        self._defaults: dict[str, str] = {}
        self._silent = 0
        self._stopped: dict[int, _Stopped] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loss_listeners: list[Callable[[Loss], None]] = []
        self._look_listeners: list[Callable[[], None]] = []
        self.is_connected = False
        """Whether the host answers."""

    @property
    def versions(self) -> Sequence[Version]:
        """Every version as last seen; without a host the last ones, with workers that are ``UNREACHABLE``."""
        return tuple(self._versions.values())

    def find(self, name: str, version: str | None = None) -> Version | None:
        """A version; None: the default one."""
        chosen = version if version is not None else self._defaults.get(name)
        return None if chosen is None else self._versions.get((name, chosen))

    def on_loss(self, listener: Callable[[Loss], None]) -> None:
        """Calls ``listener`` for each worker that is lost."""
        self._loss_listeners.append(listener)

    def on_look(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each look, several times a second."""
        self._look_listeners.append(listener)

    async def start(self) -> None:
        """Asks the host once, and goes on in the background."""
        await self.ask()
        self.look()
        self._tasks = [
            asyncio.create_task(self._repeat(self.ask, ASK_SECONDS), name="watch: host"),
            asyncio.create_task(self._repeat(self._look_once, LOOK_SECONDS), name="watch: processes"),
        ]

    async def stop(self) -> None:
        """Ends the watch."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self) -> None:
        """Asks the host how its workers are."""
        try:
            told = tuple(await self._backend.versions())
        except UnreachedError:
            self._silent = MOST_SILENT
        except LostError:  # it listens, and may only be slow
            self._silent += 1
        else:
            self._silent, self._told, self.is_connected = 0, told, True
            return
        if self._silent >= MOST_SILENT:
            self.is_connected = False

    def look(self) -> None:
        """Looks at the processes, and tells the listeners."""
        self._show(self._see())

    def _see(self) -> dict[tuple[str, str], Version]:
        return {key(version): self._seen(version) for version in self._told}

    def _show(self, after: dict[tuple[str, str], Version]) -> None:
        before, self._versions = self._versions, after
        self._defaults = {version.name: version.version for version in after.values() if version.is_default}
        metrics.set_pending({key(version): version.pending for version in after.values()})
        for loss in losses(before, after):
            level = logging.INFO if loss.worker.state == "GONE" else logging.WARNING  # taken away, or ended by itself
            worker = f"worker {loss.worker.id} (pid {loss.worker.pid})"
            logger.log(level, "%s %s: %s is %s", loss.version.name, loss.version.version, worker, loss.worker.state)
            for listener in self._loss_listeners:
                listener(loss)
        self._end_stopped()
        for tell in self._look_listeners:
            tell()

    async def _look_once(self) -> None:
        seen = self._see()
        if self.is_connected and self._has_lost(seen):
            # It may have been taken away on purpose, as with a version that another one has replaced as the default:
            # nobody should be refused meanwhile.
            with suppress(asyncio.TimeoutError):
                async with timeout(ASK_AGAIN_SECONDS):
                    await self.ask()
            seen = self._see()
        self._show(seen)

    def _has_lost(self, seen: Mapping[tuple[str, str], Version]) -> bool:
        """Whether a worker that was READY at the last look is so no more."""
        states = {(worker.id, worker.pid): worker.state for version in seen.values() for worker in version.workers}
        workers = [worker for version in self._versions.values() for worker in version.workers]
        return any(worker.state == "READY" != states.get((worker.id, worker.pid), "READY") for worker in workers)

    async def _repeat(self, action: Callable[[], Awaitable[None]], period: float) -> None:
        while True:
            await asyncio.sleep(period)
            try:
                await action()
            except Exception:
                logger.exception("the watch of the workers goes on after an error")

    def _seen(self, version: Version) -> Version:
        if not self.is_connected:
            return replace(version, workers=tuple(replace(worker, state="UNREACHABLE") for worker in version.workers))
        workers = tuple(_look_at(worker) for worker in version.workers)
        return version if workers == version.workers else replace(version, workers=workers)

    def _end_stopped(self) -> None:
        """Ends workers that have been stopped for some time: nobody else would, and they hold requests."""
        now = time.monotonic()
        stopped = {
            worker.pid: version
            for version in self._versions.values()
            for worker in version.workers
            if worker.state == "STOPPED" and worker.pid is not None
        }
        self._stopped = {pid: self._stopped.get(pid) or _Stopped.now(pid) for pid in stopped}
        for pid, found in self._stopped.items():
            if now - found.since < self._stopped_seconds or found.process is None:
                continue
            model = stopped[pid]
            with suppress(psutil.Error):
                found.process.kill()  # which checks that the pid is still that process
                seconds = now - found.since
                said = f"worker with pid {pid} was stopped for {seconds:.1f} s: ended, so that it is started anew"
                logger.warning("%s %s: %s", model.name, model.version, said)


@dataclass(frozen=True)
class _Stopped:
    process: psutil.Process | None
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def now(cls, pid: int) -> "_Stopped":
        try:
            return cls(psutil.Process(pid))
        except psutil.Error:
            return cls(None)


def key(version: Version) -> tuple[str, str]:
    """Name and version."""
    return version.name, version.version


def losses(before: Mapping[tuple[str, str], Version], after: Mapping[tuple[str, str], Version]) -> Iterator[Loss]:
    """The workers that were READY, or stopped with what they had in hand, and have ended or are worse now."""
    for place, version in before.items():
        now = after.get(place) or replace(version, workers=())
        states = {(worker.id, worker.pid): worker for worker in now.workers}
        for worker in version.workers:
            if worker.state not in ("READY", "STOPPED"):
                continue
            found = states.get((worker.id, worker.pid)) or replace(worker, state="GONE")
            if found.state not in ("READY", worker.state):
                yield Loss(version=now, worker=found)


def _look_at(worker: Worker) -> Worker:
    if worker.pid is None:
        return worker
    state = worker_state({"status": worker.state, "pid": worker.pid})
    return worker if state == worker.state else replace(worker, state=state)
