"""``marquee serve run``: TorchServe, kept alive, and the gateway in front of it, in one process until a signal."""

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import StartError
from marquee.gateway.listeners import raise_file_limit
from marquee.gateway.orphans import reap_orphans
from marquee.gateway.record import GatewayRecord, refuse_second
from marquee.gateway.signals import Signals
from marquee.gateway.tls import allow_only_tls_1_3_for_grpc
from marquee.gateway.torchserve.supervisor import Patience, Supervisor
from marquee.process_start import start_of
from marquee.serving.errors import OperationError
from marquee.serving.launch import Launch
from marquee.serving.processes import end_at_once, left_over
from marquee.serving.record import Server
from marquee.serving.server import exclusive, stop
from marquee.serving.trust import read_certificate
from marquee.serving.verified import Service, start_prepared_verified

if TYPE_CHECKING:
    from marquee.gateway.assembly import Assembly, Doorway

logger = logging.getLogger(__name__)

DOING = "marquee serve run"
_STOP_SECONDS = 30.0
"""For TorchServe to end its workers."""
_GIVEN_UP_SECONDS = 1.0
"""For requests under way where TorchServe cannot be brought back, so that nobody can answer them."""
_TELL_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run."""

    wanted: Launch
    gateway: GatewayConfig | None = None
    """None: TorchServe alone, kept alive."""
    timeout: float = 300.0
    """Seconds until the models must be READY."""
    patience: Patience | None = None
    """How TorchServe is kept alive; None: as is usual, with this timeout."""

    @property
    def stop_seconds(self) -> float:
        """Within which the process has ended after SIGTERM."""
        doors = 0.0 if self.gateway is None else self.gateway.lame_duck_seconds + self.gateway.drain_seconds
        return doors + 2 * _STOP_SECONDS


Ready = Callable[[GatewayRecord, Service], None]


def run(plan: Plan, ready: Ready) -> None:
    """Returns after SIGTERM, SIGINT or SIGHUP, when everything that it has started has ended.

    Args:
        plan: what to run.
        ready: called when requests are answered.

    Raises:
        AnswersDifferError: an answer differs from evaluation's.
        OperationError: it cannot start, or TorchServe could not be brought back. Nothing is left running.
        KeyboardInterrupt: a signal came before it was ready.
    """
    folder = plan.wanted.folder
    most_connections = raise_file_limit()
    with exclusive(folder, DOING):
        refuse_second(folder)
        doorway = None if plan.gateway is None else _doorway(plan.gateway, most_connections)
        service = start_prepared_verified(plan.wanted, plan.timeout, DOING)
    process = _Process(plan, service, doorway, ready)
    try:
        _run_in_loop(process.main())
    except BaseException:
        stop(service.server)
        raise
    if not process.was_ready:
        raise KeyboardInterrupt


def _doorway(config: GatewayConfig, most_connections: int) -> "Doorway":
    """What of the gateway can fail before TorchServe is started.

    Raises:
        StartError: it does.
    """
    if config.tls is not None:
        allow_only_tls_1_3_for_grpc()
    try:
        from marquee.gateway.assembly import Doorway
    except ModuleNotFoundError as error:
        raise StartError(
            f"the gateway needs {error.name}, which is not installed; install it: pip install 'marquee[gateway]'"
        ) from error
    return Doorway.find(config, most_connections)


def _run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


class _Process:
    """From a TorchServe that was started to its end.

    Args:
        plan: what to run.
        service: the TorchServe.
        doorway: of the gateway; None: there is none.
        ready: called when requests are answered.
    """

    def __init__(self, plan: Plan, service: Service, doorway: "Doorway | None", ready: Ready) -> None:
        self._plan, self._service, self._doorway, self._ready = plan, service, doorway, ready
        self._signals = Signals()
        self._gateway: Assembly | None = None
        self._record = _record(plan, service, doorway)
        self.was_ready = False

    async def main(self) -> None:
        """Returns in the end.

        Raises:
            StartError: the gateway cannot be opened, or TorchServe could not be brought back.
        """
        self._signals.own()
        loop = asyncio.get_running_loop()

        def tell(what: Callable[["Assembly"], Coroutine[Any, Any, None]]) -> None:
            """From the supervisor's thread."""
            if self._gateway is not None:
                told = asyncio.run_coroutine_threadsafe(what(self._gateway), loop)
                with suppress(FutureTimeoutError):
                    told.result(_TELL_SECONDS)

        def returned(server: Server) -> None:
            tell(lambda gateway: gateway.host_returned(server))
            if self.was_ready and not self._record.path.exists():  # the state folder was deleted
                self._record.save()

        supervisor = Supervisor(
            self._plan.wanted,
            self._service.server,
            self._plan.patience or Patience(start_seconds=self._plan.timeout),
            doing=DOING,
            died=lambda: tell(lambda gateway: gateway.host_died()),
            returned=returned,
        )
        reaping = asyncio.create_task(reap_orphans())
        watching = asyncio.create_task(asyncio.to_thread(supervisor.watch))
        try:
            await self._serve(watching)
        finally:
            await self._end(supervisor, watching)
            reaping.cancel()

    async def _serve(self, watching: "asyncio.Task[None]") -> None:
        """Returns at the first signal."""
        stop_signal = asyncio.create_task(self._signals.stop.wait())
        if self._doorway is not None:
            self._gateway = self._doorway.assemble(self._service.server)
            opening = asyncio.create_task(asyncio.wait_for(self._gateway.open(), self._plan.timeout))
            try:
                await _first(opening, stop_signal, watching)
            except asyncio.TimeoutError as error:
                raise StartError(f"the gateway was not ready in {self._plan.timeout:g} s") from error
            finally:
                opening.cancel()
        if self._signals.stop.is_set():
            return
        _spare_the_collector()
        self._record.save()
        self.was_ready = True
        self._ready(self._record, self._service)
        waited = [stop_signal, watching]
        if self._gateway is not None:
            waited.append(asyncio.create_task(self._gateway.until_broken()))
        await _first(*waited)
        if not self._signals.stop.is_set():
            raise StartError("the HTTP server has ended")

    async def _end(self, supervisor: Supervisor, watching: "asyncio.Task[None]") -> None:
        """Answers what is under way, and stops TorchServe after that: it would reset it."""
        hurry = asyncio.create_task(self._signals.hurry.wait())
        if self._gateway is not None:
            await self._close(self._gateway, hurry, is_given_up=watching.done())
        await asyncio.to_thread(supervisor.stop)
        await asyncio.wait([watching])
        stopping = asyncio.create_task(asyncio.to_thread(self._stop_server, supervisor.server))
        await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await asyncio.to_thread(end_at_once, left_over(self._plan.wanted.folder))
        await stopping
        hurry.cancel()
        self._record.remove()
        logger.info("ended")

    async def _close(self, gateway: "Assembly", hurry: "asyncio.Task[Any]", *, is_given_up: bool) -> None:
        config = self._plan.gateway or GatewayConfig()
        gateway.drain()
        if self.was_ready and not is_given_up:
            await asyncio.wait([hurry], timeout=config.lame_duck_seconds)
        seconds = _GIVEN_UP_SECONDS if is_given_up else config.drain_seconds
        closing = asyncio.create_task(gateway.close(seconds))
        await asyncio.wait([closing, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not closing.done():
            await gateway.hurry()
        if lost := await closing:
            logger.warning(f"{lost} requests under way were given up")

    def _stop_server(self, server: Server) -> None:
        try:
            with exclusive(self._plan.wanted.folder, DOING):
                stop(server, _STOP_SECONDS)
        except OperationError:  # another command is working there, and will find what is left
            stop(server, _STOP_SECONDS)


def _spare_the_collector() -> None:
    """What was imported and opened lives as long as the process: looking through it would hold up requests.

    See https://docs.python.org/3/library/gc.html#gc.freeze. What requests leave is still collected, as often as before.
    """
    gc.collect()
    gc.freeze()


def _record(plan: Plan, service: Service, doorway: "Doorway | None") -> GatewayRecord:
    tls = None if plan.gateway is None else plan.gateway.tls
    return GatewayRecord(
        folder=plan.wanted.folder,
        pid=os.getpid(),
        started=start_of(os.getpid()) or "",
        http=None if doorway is None else doorway.listeners.http,
        grpc=None if doorway is None else doorway.listeners.grpc,
        certificate=None if tls is None else read_certificate(tls.certificate),
        asks_for_certificates=tls is not None and tls.client_authority is not None,
        stop_seconds=plan.stop_seconds,
        checked=service.checked,
    )


async def _first(*tasks: "asyncio.Task[Any]") -> None:
    """Waits for the first of them, and raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
