"""The steps of tuning: workload, search space, search on a private server, in-process limit, writing the settings."""

import logging
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.core.host import this_host
from marquee.locks import LockedError, locked
from marquee.serving.archive import check_archive
from marquee.serving.errors import OperationError
from marquee.serving.model_config import read_model_config, update_model_config, worker_config
from marquee.serving.tuning.config import TuneConfig
from marquee.serving.tuning.meter import FINAL_FACTOR, TrialRunner
from marquee.serving.tuning.private import private_server
from marquee.serving.tuning.result import Goal, Measured, Trial
from marquee.serving.tuning.search import FINALISTS, ROUNDS, SearchResult, search
from marquee.serving.tuning.space import Params, Space, Value, space_of
from marquee.serving.tuning.workload import Workload, read_workload

logger = logging.getLogger(__name__)

QUEUE_SECONDS = 1.0
"""Longest wait in a full queue when the goal has no latency limit."""
_SPREAD = 1.3
"""The p99 latency of answered requests under overload, divided by the time that a full queue takes; measured at twice
the capacity, the same with queues of 100 and of 16 (benchmarks/serving/server.md)."""
_LIMIT_ROUNDS = 3
_FINAL_SHARE = 0.4
"""Largest share of the time that is reserved for the final."""
_LOAD_SECONDS = 10
"""Expected time to load a model."""


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """The result of tuning."""

    archive: Path
    goal: Goal
    search: SearchResult
    left_out: dict[str, str]
    """Variant -> why it was not tried."""
    changes: dict[str, Value]
    """Settings of ``model-config.yaml``, TorchServe's and the handler's; empty when no settings meet the goal."""
    in_process: tuple[tuple[float, float], ...]
    """Images per second (through the server, in process), one pair per round."""
    written: bool

    @property
    def met(self) -> bool:
        """Whether the best settings meet the goal."""
        return self.goal.meets(self.search.best)

    @property
    def share(self) -> float | None:
        """Throughput through the server divided by that in process: median of the rounds; None: not measured."""
        return statistics.median(served / limit for served, limit in self.in_process) if self.in_process else None


def tune(
    archive: Path,
    config: TuneConfig,
    *,
    server_config: Path,
    images: Path | None = None,
    device: str = "cpu",
    write: bool = True,
) -> TuningResult:
    """Finds the settings of an archive that answer the most requests on this machine, and writes them into it.

    Args:
        archive: a ``.mar``.
        config: goal and limits of the search.
        server_config: TorchServe settings with which it will be served.
        images: a folder of image files to send; None: the images in the archive.
        device: where it is served: ``cpu``, ``cuda:0``.
        write: whether to change the archive.

    Raises:
        OperationError: the archive cannot be read or served, or another process is tuning it.
    """
    started = time.monotonic()
    check_archive(archive)
    workload = read_workload(archive, images, config.max_accuracy_drop, device)
    model_config = read_model_config(archive)
    space, start = space_of(model_config, workload.variants, this_host().cores, config.clients)
    goal = Goal(p99_ms=config.p99_ms)
    state = archive.with_name(f".{archive.stem}.tuning")
    with _locked(state), ExitStack() as stack:
        server = private_server(archive, server_config, state, workload.bodies, config.clients)
        meter = stack.enter_context(
            TrialRunner(space, archive, server, workload.bodies, config.clients, config.seconds, device)
        )

        def measure(point: Params, final: bool) -> Trial:
            return _log_trial("final" if final else "short", point, meter.take(point, final))

        result = search(space, start, measure, goal, _clock(started, config))
        met = goal.meets(result.best)
        changes = _changes(result, space, model_config, workload, goal, config.clients) if met else {}
        in_process = _compare(meter, result.best.point) if met else []
    if changes and write:
        update_model_config(archive, changes)
    return TuningResult(
        archive=archive,
        goal=goal,
        search=result,
        left_out=workload.left_out,
        changes=changes,
        in_process=tuple(in_process),
        written=bool(changes) and write,
    )


def queue_size(best: Measured, goal: Goal, clients: int) -> int:
    """The number of requests that may wait in the queue, so that the last of them is still answered in time.

    The last one waits for all before it and for the batches that the workers hold: (queue + held) / throughput seconds,
    at p99 ``_SPREAD`` times that. Further requests are refused at once, which helps a client more than an answer that
    is too late.

    Args:
        best: the settings with their throughput.
        goal: the latency limit.
        clients: number of clients, whose requests must fit into the queue in any case.
    """
    seconds = QUEUE_SECONDS if goal.p99_ms is None else goal.p99_ms / 1000
    held = int(best.point["workers"]) * int(best.point["batch"])
    return max(clients, round(best.throughput * seconds / _SPREAD) - held)


def _log_trial(stage: str, point: Params, trial: Trial) -> Trial:
    latency = f", p99 {trial.p99_ms:.1f} ms" if trial.p99_ms else ""
    logger.info(f"{stage}: {point}: {trial.failure or f'{trial.throughput:.1f} answers/s{latency}'}")
    return trial


def _compare(meter: TrialRunner, point: Params) -> list[tuple[float, float]]:
    """Throughput through the server and in process, in images per second, one after the other in each round."""
    rounds = []
    for number in range(1, _LIMIT_ROUNDS + 1):
        served = _log_trial(f"served {number}", point, meter.take(point, True))
        limit = _log_trial(f"in process {number}", point, meter.take_in_process(point))
        rounds.append((served.throughput, limit.throughput))
    return rounds


def _changes(
    result: SearchResult, space: Space, model_config: dict[str, object], workload: Workload, goal: Goal, clients: int
) -> dict[str, Value]:
    """The settings to write into the archive's ``model-config.yaml``."""
    best, variant = result.best, worker_config(model_config).variant
    is_new = best.point != result.start.point or variant not in ("auto", best.point["variant"])
    changes = space.config(best.point) if is_new else {}
    if changes.get("variant") == workload.variants[0] and variant == "auto":
        # A worker chooses this variant anyway: left on auto, it can still fall back to another one.
        del changes["variant"]
    return {**changes, "jobQueueSize": queue_size(best, goal, clients)}


def _clock(started: float, config: TuneConfig) -> Callable[[bool], bool]:
    """A function that says whether there is time for more of the sweep (False) or of the final (True)."""
    deadline = started + 60 * config.minutes
    final = FINALISTS * (ROUNDS * FINAL_FACTOR * config.seconds + _LOAD_SECONDS)
    reserve = min(final, _FINAL_SHARE * 60 * config.minutes)
    return lambda final: time.monotonic() < (deadline if final else deadline - reserve)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Holds a lock, because two calls at once would disturb each other's measurements; a killed process releases it."""
    try:
        with locked(state, "marquee tune"):
            yield
            shutil.rmtree(state, ignore_errors=True)  # after an error the logs are kept
    except LockedError as error:
        who = f": {error.owner}" if error.owner is not None else ""
        raise OperationError(f"{state}: another marquee tune is running on this archive{who}; wait for it") from error
