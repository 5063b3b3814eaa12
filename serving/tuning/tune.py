"""The story of tuning: material, space, search on a private server, the in-process limit, and what is written."""

import fcntl
import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.host import this_host
from marquee.serving.archive import check_archive
from marquee.serving.errors import OperationError
from marquee.serving.model_config import read_model_config, update_model_config, worker_config
from marquee.serving.tuning.config import TuneConfig
from marquee.serving.tuning.material import Material, read_material
from marquee.serving.tuning.meter import FINAL_FACTOR, Meter
from marquee.serving.tuning.private import private_server
from marquee.serving.tuning.result import Goal, Measured, Slice
from marquee.serving.tuning.search import FINALISTS, ROUNDS, Found, search
from marquee.serving.tuning.space import Point, Space, Value, space_of

logger = logging.getLogger(__name__)

QUEUE_SECONDS = 1.0
"""Without a limit of latency: the longest that a request waits in a full queue."""
_SPREAD = 1.3
"""The p99 of what is answered under overload, divided by the time that a full queue takes; measured at twice the
capacity, with a queue of 100 as with one of 16 (benchmarks/serving/server.md)."""
_LIMIT_ROUNDS = 3
_FINAL_SHARE = 0.4
"""Of the time, at most, that is kept for the final."""
_LOAD_SECONDS = 10
"""What loading a model is expected to take."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning found."""

    archive: Path
    goal: Goal
    found: Found
    left_out: dict[str, str]
    """Variant -> why it was not tried."""
    changes: dict[str, Value]
    """Settings of ``model-config.yaml``, TorchServe's and the handler's; none when no settings meet the goal."""
    in_process: tuple[tuple[float, float], ...]
    """Images a second behind the server and in process, one pair a round."""
    written: bool

    @property
    def met(self) -> bool:
        """Whether the best settings meet the goal."""
        return self.goal.meets(self.found.best)

    @property
    def share(self) -> float | None:
        """Throughput behind the server divided by that in process: median of the rounds; None: not measured."""
        return statistics.median(served / alone for served, alone in self.in_process) if self.in_process else None


def tune(
    archive: Path,
    config: TuneConfig,
    *,
    server_config: Path,
    images: Path | None = None,
    device: str = "cpu",
    write: bool = True,
) -> Tuned:
    """Finds the settings of an archive that answer the most requests on this machine, and writes them into it.

    Args:
        archive: a ``.mar``.
        config: what to look for.
        server_config: TorchServe settings that will serve it.
        images: a folder of image files to ask about; None: those that travel in the archive.
        device: where it is served: ``cpu``, ``cuda:0``.
        write: whether to change the archive.

    Raises:
        OperationError: the archive cannot be read or served, or another call is at work on it.
    """
    began = time.monotonic()
    check_archive(archive)
    material = read_material(archive, images, config.max_accuracy_drop, device)
    before = read_model_config(archive)
    space, start = space_of(before, material.variants, this_host().cores, config.clients)
    goal = Goal(p99_ms=config.p99_ms)
    state = archive.with_name(f".{archive.stem}.tuning")
    with _alone(state), ExitStack() as stack:
        server = private_server(archive, server_config, state, material.bodies, config.clients)
        meter = stack.enter_context(
            Meter(space, archive, server, material.bodies, config.clients, config.seconds, device)
        )

        def measure(point: Point, final: bool) -> Slice:
            return _logged("final" if final else "short", point, meter.take(point, final))

        found = search(space, start, measure, goal, _clock(began, config))
        met = goal.meets(found.best)
        changes = _changes(found, space, before, material, goal, config.clients) if met else {}
        compared = _compare(meter, found.best.point) if met else []
    if changes and write:
        update_model_config(archive, changes)
    return Tuned(
        archive=archive,
        goal=goal,
        found=found,
        left_out=material.left_out,
        changes=changes,
        in_process=tuple(compared),
        written=bool(changes) and write,
    )


def queue_size(best: Measured, goal: Goal, clients: int) -> int:
    """Requests that may wait, so that the last of them is still answered in time.

    The last one waits for all before it and for the batches that the workers hold: (queue + held) / throughput seconds,
    now and then ``_SPREAD`` times that. More are refused at once, which is worth more to a client than an answer that
    comes too late.

    Args:
        best: the settings with their throughput.
        goal: of latency.
        clients: whose requests must find room in any case.
    """
    seconds = QUEUE_SECONDS if goal.p99_ms is None else goal.p99_ms / 1000
    held = int(best.point["workers"]) * int(best.point["batch"])
    return max(clients, round(best.throughput * seconds / _SPREAD) - held)


def _logged(stage: str, point: Point, measured: Slice) -> Slice:
    latency = f", p99 {measured.p99_ms:.1f} ms" if measured.p99_ms else ""
    logger.info(f"{stage}: {point}: {measured.failure or f'{measured.throughput:.1f} answers/s{latency}'}")
    return measured


def _compare(meter: Meter, point: Point) -> list[tuple[float, float]]:
    """Throughput behind the server and in process, images a second, one after the other in each round."""
    found = []
    for number in range(1, _LIMIT_ROUNDS + 1):
        served = _logged(f"served {number}", point, meter.take(point, True))
        alone = _logged(f"in process {number}", point, meter.take_in_process(point))
        found.append((served.throughput, alone.throughput))
    return found


def _changes(
    found: Found, space: Space, before: dict[str, object], material: Material, goal: Goal, clients: int
) -> dict[str, Value]:
    """What the archive's ``model-config.yaml`` must say."""
    best, named = found.best, worker_config(before).variant
    is_new = best.point != found.start.point or named not in ("auto", best.point["variant"])
    changes = space.config(best.point) if is_new else {}
    if changes.get("variant") == material.variants[0] and named == "auto":
        # What a worker chooses anyway stays its choice: it can fall back to another one, which a forced one cannot.
        del changes["variant"]
    return {**changes, "jobQueueSize": queue_size(best, goal, clients)}


def _clock(began: float, config: TuneConfig) -> Callable[[bool], bool]:
    """Says whether there is time for more of the sweep, or (True) of the final."""
    until = began + 60 * config.minutes
    final = FINALISTS * (ROUNDS * FINAL_FACTOR * config.seconds + _LOAD_SECONDS)
    reserve = min(final, _FINAL_SHARE * 60 * config.minutes)
    return lambda final: time.monotonic() < (until if final else until - reserve)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Two calls at once would measure each other; a killed one holds no lock."""
    state.mkdir(exist_ok=True)
    path = state / "lock"
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperationError(f"{path}: another marquee tune is at work on this archive; wait for it") from error
        yield
        shutil.rmtree(state, ignore_errors=True)  # after an error its logs stay
