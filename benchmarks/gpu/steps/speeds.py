"""Images a second of loaded engines, by batch size."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.gpu.step import Report
from benchmarks.gpu.steps.gauges import Deadline
from marquee.handlers.core.arrays import Arrays

Engine = Callable[[Arrays], object]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What is measured."""

    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Of calls in one measurement of a speed."""


def tell_speeds(
    report: Report, engines: Mapping[str, Engine], inputs: Arrays, calls: Calls, deadline: Deadline
) -> None:
    """Images a second of each engine at each batch: copies to and from the device count, reading requests does not.

    Args:
        report: takes the rows, those of a batch when its rounds are done.
        engines: by name; they take turns.
        inputs: images, as an engine takes them; repeated where a batch is larger.
        calls: what is measured.
        deadline: batches after it are skipped.
    """
    for batch in calls.batches:
        if not deadline.allows(2 * calls.rounds * calls.seconds * len(engines)):
            for name in engines:
                report.skip(f"{name}: batch {batch}", "no time left")
            continue
        arrays = {name: np.array(values[np.arange(batch) % len(values)]) for name, values in inputs.items()}
        for name, speed in _speeds(report, engines, arrays, batch, calls).items():
            report.row(f"{name}: batch {batch}", speed, "images/s")


def _speeds(
    report: Report, engines: Mapping[str, Engine], arrays: Arrays, batch: int, calls: Calls
) -> dict[str, float]:
    """The medians of the rounds; an engine that fails has a row that says so, and no further round."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(calls.rounds):
        for name in list(rates):
            measured = rates.pop(name)
            with report.guard(f"{name}: batch {batch}"):
                rates[name] = [*measured, batch / _median_seconds(engines[name], arrays, calls.seconds)]
    return {name: statistics.median(measured) for name, measured in rates.items()}


def _median_seconds(engine: Engine, arrays: Arrays, seconds: float) -> float:
    engine(arrays)  # kernels and memory are chosen at a batch's first call
    durations: list[float] = []
    end = time.monotonic() + seconds
    while not durations or time.monotonic() < end:
        started = time.perf_counter()
        engine(arrays)  # its result is on the CPU, so that nothing is left to wait for
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)
