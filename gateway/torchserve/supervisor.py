"""Keeps TorchServe's front end running: notices its death, also one that only looks alive, and brings it back."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from marquee import hints
from marquee.gateway.errors import StartError
from marquee.gateway.torchserve.seen import Seen
from marquee.serving.errors import OperationError
from marquee.serving.launch import Launch
from marquee.serving.logs import GATEWAY_LOG, LAST_LOGS, last_line
from marquee.serving.processes import end_at_once, is_front_end, left_over
from marquee.serving.record import Server
from marquee.serving.verified import start_prepared_verified

logger = logging.getLogger(__name__)

_TICK = 0.25
"""Seconds between two looks at the process."""
_ANSWER_SECONDS = 5.0
"""Until when the management API has to answer one question."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How a front end that has died is brought back."""

    delays: Sequence[float] = (1.0, 5.0, 15.0)
    """Seconds before each start; the last one also before all that follow."""
    most_failures: int = 5
    """Starts in a row that failed, after which it is given up."""
    steady_seconds: float = 60.0
    """A front end that has lived as long begins the delays anew when it dies."""
    look_seconds: float = 1.0
    """Between two questions what it serves."""
    stopped_seconds: float = 2.0
    """A process that has been stopped (SIGSTOP) for as long counts as dead."""
    hang_seconds: float = 20.0
    """A management API that has not answered for as long counts as dead."""
    start_seconds: float = 300.0
    """Until when the models must be READY."""

    def __post_init__(self) -> None:
        if not self.delays or min(self.delays) < 0:
            raise ValueError(f"delays: expected seconds, got {self.delays}")
        if self.most_failures < 1:
            raise ValueError(f"most_failures: expected at least 1, got {self.most_failures}")


class Supervisor:
    """See the module. Its methods block; :meth:`watch` runs in a thread of its own.

    Args:
        wanted: how the front end was started.
        server: the front end, which was healthy a moment ago.
        patience: how it is brought back.
        doing: what others are told who want to work in the state folder meanwhile.
        died: called when a front end has died.
        returned: called with the next one, when it has all its models back.
    """

    def __init__(
        self,
        wanted: Launch,
        server: Server,
        patience: Patience | None = None,
        *,
        doing: str = "marquee serve run",
        died: Callable[[], None] = lambda: None,
        returned: Callable[[Server], None] = lambda server: None,
    ) -> None:
        self._wanted, self._doing, self._patience = wanted, doing, patience or Patience()
        self._died, self._returned = died, returned
        self._life = _Life(server)
        self._seen: Seen | None = None
        self._starts = 0
        """In this series of deaths."""
        self._is_starting = False
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._ended.set()

    @property
    def server(self) -> Server:
        """The front end as it was started last, which may be dead."""
        return self._life.server

    def watch(self) -> None:
        """Returns after :meth:`stop`.

        Raises:
            StartError: it cannot be brought back.
        """
        self._ended.clear()
        try:
            while not self._stopping.wait(_TICK):
                if cause := self._cause_of_death():
                    logger.warning(f"TorchServe, pid {self.server.pid}, {cause}")
                    self._died()
                    self._bring_back()
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Ends :meth:`watch`, and a start that is under way; a healthy front end is left alone."""
        self._stopping.set()
        while not self._ended.wait(_TICK):
            if self._is_starting:  # whoever waits for the new front end notices at once that it has ended
                end_at_once([process for process in left_over(self._wanted.folder) if is_front_end(process)])

    def _cause_of_death(self) -> str | None:
        life, now = self._life, time.monotonic()
        if not life.server.is_running():
            return f"has ended; the last line of its console.log: {last_line(life.server.logs / 'console.log')}"
        if not _is_stopped(life.server.process()):
            life.ran = now
        if now - life.ran >= self._patience.stopped_seconds:
            return "was stopped"
        if now - life.looked >= self._patience.look_seconds:
            life.looked = now
            self._look(life)
        silence = time.monotonic() - life.answered
        if silence >= self._patience.hang_seconds:
            return f"has not answered at {life.server.addresses.management} for {silence:.0f} s"
        return None

    def _look(self, life: "_Life") -> None:
        """Asks what it serves, to bring back just that."""
        try:
            self._seen = Seen.of(life.client)
            life.answered = time.monotonic()
        except (OperationError, LookupError, ValueError):  # of an answer that was cut off, too
            if (self._wanted.folder / "key_file.json").is_file():
                return
            if not life.is_locked_out:
                logger.warning(
                    f"{self._wanted.folder}: the tokens of TorchServe were deleted, so it cannot be asked any more; "
                    f"stop and start it: {hints.command('serve', 'stop', '--state', self._wanted.folder)}"
                )
            life.is_locked_out, life.answered = True, time.monotonic()

    def _bring_back(self) -> None:
        if time.monotonic() - self._life.began >= self._patience.steady_seconds:
            self._starts = 0
        failures = 0
        while True:
            delay = self._patience.delays[min(self._starts, len(self._patience.delays) - 1)]
            self._starts += 1
            logger.info(f"TorchServe is started again in {delay:g} s")
            self._clear_away()
            if self._stopping.wait(delay):
                return
            try:
                self._start()
            except (OperationError, OSError) as error:
                if self._stopping.is_set():
                    return
                failures += 1
                said = " ".join(str(error).split())
                logger.error(f"TorchServe was not started again ({failures} of {self._patience.most_failures}): {said}")
                if failures >= self._patience.most_failures:
                    raise StartError(f"TorchServe could not be brought back: {said}") from error
            else:
                logger.info(f"TorchServe is back with pid {self.server.pid}: {self._seen or 'as it was started'}")
                self._returned(self.server)
                return

    def _clear_away(self) -> None:
        """Ends a front end that only looks alive, and keeps the logs that say what it died of."""
        if (process := self.server.process()) is not None:
            end_at_once([process])
        logs = self.server.logs
        with suppress(OSError):  # of a state folder that was deleted; and they are only logs
            shutil.rmtree(logs / LAST_LOGS, ignore_errors=True)
            (logs / LAST_LOGS).mkdir()
            for path in logs.iterdir():
                if path.name not in (GATEWAY_LOG, LAST_LOGS):
                    path.rename(logs / LAST_LOGS / path.name)

    def _start(self) -> None:
        self._is_starting = True
        try:
            seen, seconds = self._seen, self._patience.start_seconds
            if seen is None:
                service = start_prepared_verified(self._wanted, seconds, self._doing)
            else:
                wanted = replace(self._wanted, models=seen.references(self._wanted.store))
                service = start_prepared_verified(
                    wanted, seconds, self._doing, lambda server: seen.restore_workers(server.client())
                )
            self._life = _Life(service.server)
        finally:
            self._is_starting = False


class _Life:
    """One front end, from its start to its death; times are those of ``time.monotonic``."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = server.client(_ANSWER_SECONDS)
        self.began = self.answered = self.ran = time.monotonic()
        """When it was started, has last answered, and was last seen not to be stopped."""
        self.looked = 0.0
        """When it was last asked."""
        self.is_locked_out = False
        """Whether its tokens were deleted."""


def _is_stopped(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False
