"""Times variants side by side, so that other load on the machine slows all of them equally."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marquee.training.core.errors import OptimizeError
from marquee.training.core.progress import Progress
from marquee.training.optimize.config import RANKED_BATCH, OptimizeConfig
from marquee.training.optimize.process import VariantProcess


@dataclass(frozen=True)
class Timing:
    """The speed of one variant."""

    latency_p50_ms: float
    """At a batch size of 1."""
    latency_p99_ms: float
    """At a batch size of 1."""
    images_per_second: dict[str, float]
    """Batch size -> median over the rounds."""
    rounds: tuple[float, ...]
    """Items per second in each round, at the batch size that decides the ranking."""


def time_variants(
    processes: Sequence[VariantProcess],
    inputs: Path,
    batches: Sequence[int],
    config: OptimizeConfig,
    progress: Progress,
    leave_out: Callable[[str, str], None],
) -> dict[str, Timing]:
    """Times every variant in turn, for several rounds.

    Args:
        processes: loaded variants; while one is timed the others wait.
        inputs: folder of real inputs (see :func:`marquee.training.optimize.process.save_inputs`).
        batches: batch sizes, among them 1.
        config: rounds, and seconds per measurement.
        progress: where progress is reported.
        leave_out: called with the name of a variant that fails meanwhile, and the reason.

    Returns:
        The timing of each variant that did not fail.

    Raises:
        OptimizeError: the first variant fails.
    """
    durations: dict[tuple[str, int], list[np.ndarray]] = {
        (process.name, batch): [] for process in processes for batch in batches
    }
    failed: set[str] = set()
    with progress.task("timing", config.rounds * len(processes)) as task:
        for _ in range(config.rounds):
            for process in [process for process in processes if process.name not in failed]:
                try:
                    for batch in batches:
                        durations[process.name, batch].append(process.time(inputs, batch, config.seconds))
                except OptimizeError as error:  # such as a process that the system has ended
                    if process is processes[0]:
                        raise
                    failed.add(process.name)
                    leave_out(process.name, str(error))
                task.advance(process.name)
    timed = [process.name for process in processes if process.name not in failed]
    return {name: _timing(name, batches, durations) for name in timed}


def _timing(name: str, batches: Sequence[int], durations: dict[tuple[str, int], list[np.ndarray]]) -> Timing:
    single = np.concatenate(durations[name, 1]) * 1000
    return Timing(
        latency_p50_ms=round(float(np.median(single)), 3),
        latency_p99_ms=round(float(np.quantile(single, 0.99)), 3),
        images_per_second={
            str(batch): round(float(np.median([batch / np.median(calls) for calls in durations[name, batch]])), 1)
            for batch in batches
        },
        rounds=tuple(RANKED_BATCH / float(np.median(calls)) for calls in durations[name, RANKED_BATCH]),
    )
