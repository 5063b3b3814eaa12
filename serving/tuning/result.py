"""Measurements at a point, and which of two points is better."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from marquee.rounds import ratio
from marquee.serving.tuning.load import Load
from marquee.serving.tuning.space import Params


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Some seconds of load at one point, or why there were none."""

    seconds: float = 0.0
    throughput: float = 0.0
    """Answers per second."""
    p50_ms: float = float("inf")
    p95_ms: float = float("inf")
    p99_ms: float = float("inf")
    rejected: int = 0
    """Answers with status 503."""
    errors: int = 0
    """Requests without an answer, or with a status other than 200 and 503."""
    failure: str | None = None
    """Why the point cannot be served; None when it can."""

    @classmethod
    def of(cls, load: Load) -> "Trial":
        """The figures of ``load``."""
        if not load.answered:
            statuses = ", ".join(f"{len(values)} times {status}" for status, values in load.latencies.items())
            return cls(failure=f"no request was answered ({statuses or load.failures})")
        return cls(
            seconds=load.seconds,
            throughput=load.throughput,
            p50_ms=load.percentile_ms(50),
            p95_ms=load.percentile_ms(95),
            p99_ms=load.percentile_ms(99),
            rejected=load.rejected,
            errors=load.errors,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One point, measured in one or several slices."""

    point: Params
    slices: tuple[Trial, ...]

    @property
    def failure(self) -> str | None:
        """Why the point cannot be served; None when it can."""
        reasons = [trial.failure for trial in self.slices if trial.failure]
        if not reasons and (lost := sum(trial.rejected + trial.errors for trial in self.slices)):
            return f"{lost} requests were not answered"
        return reasons[0] if reasons else None

    @property
    def throughput(self) -> float:
        """Answers per second: median of the slices."""
        return statistics.median(one.throughput for one in self.slices)

    @property
    def p50_ms(self) -> float:
        """Median of the slices' medians."""
        return statistics.median(one.p50_ms for one in self.slices)

    @property
    def p95_ms(self) -> float:
        """Median of the slices' 95th percentiles."""
        return statistics.median(one.p95_ms for one in self.slices)

    @property
    def p99_ms(self) -> float:
        """Median of the slices' 99th percentiles, so that a stall of the machine in one of them has no effect."""
        return statistics.median(one.p99_ms for one in self.slices)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The most answers per second within a latency limit."""

    p99_ms: float | None = None
    """Latency limit in milliseconds for 99 % of the answers; None: no limit."""

    def __post_init__(self) -> None:
        if self.p99_ms is not None and self.p99_ms <= 0:
            raise ValueError(f"p99_ms: expected a positive number, got {self.p99_ms}")

    def meets(self, measured: Measured) -> bool:
        """Whether every request was answered, and p99 is within the limit."""
        return measured.failure is None and (self.p99_ms is None or measured.p99_ms <= self.p99_ms)

    def is_better(self, candidate: Measured, best: Measured, margin: float = 0.0) -> bool:
        """Whether ``candidate`` is better than ``best`` by more than ``margin``, a relative difference.

        Within the latency limit, higher throughput is better; beyond it, lower p99.
        """
        if (candidate.failure is None) != (best.failure is None):
            return candidate.failure is None
        if self.meets(candidate) != self.meets(best):
            return self.meets(candidate)
        if self.meets(candidate):
            return candidate.throughput > (1 + margin) * best.throughput
        return candidate.p99_ms < best.p99_ms / (1 + margin)

    def choose(self, finals: Sequence[Measured]) -> tuple[Measured, str]:
        """The best of a final, and why it is.

        The first, the settings as they were, stay unless others answer more by more than the rounds vary, and do not
        pay for it with a p99 that rises by a larger share, which only a latency limit would allow.

        Args:
            finals: measured in turn, the settings as they were first.
        """
        start, best = finals[0], self.best(finals)
        if best is start or start.failure is not None or self.meets(start) != self.meets(best):
            return best, f"{best.point}: the best of {len(finals)} in the final"
        if not self.meets(best):
            return best, f"{best.point}: the lowest p99"
        gain = ratio(*([trial.throughput for trial in one.slices] for one in (best, start)))
        latency, stays = f"p99 {start.p99_ms:.1f} -> {best.p99_ms:.1f} ms", "the settings as they were"
        if not gain.is_more:
            return start, f"{stays}: {best.point} gave {gain} the answers, within what the rounds vary"
        if self.p99_ms is None and best.p99_ms / start.p99_ms > gain.value:
            return start, f"{stays}: {best.point} gave {gain} the answers, but {latency}"
        return best, f"{best.point}: {gain} the answers of the settings as they were, {latency}"

    def best(self, measured: Sequence[Measured]) -> Measured:
        """The best; of equal ones the first."""
        best = measured[0]
        for candidate in measured[1:]:
            if self.is_better(candidate, best):
                best = candidate
        return best


def frontier(measured: Sequence[Measured]) -> list[Measured]:
    """The Pareto frontier: the points that no other beats in both throughput and p99, the lowest p99 first."""
    served = [candidate for candidate in measured if candidate.failure is None]
    points: list[Measured] = []
    for candidate in sorted(served, key=lambda candidate: (candidate.p99_ms, -candidate.throughput)):
        if not points or candidate.throughput > points[-1].throughput:
            points.append(candidate)
    return points
