"""What was measured at a point, and which of two points is better."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from marquee.serving.tuning.load import Load
from marquee.serving.tuning.space import Point


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some seconds of load on one point, or why there were none."""

    seconds: float = 0.0
    throughput: float = 0.0
    """Answers a second."""
    p50_ms: float = float("inf")
    p95_ms: float = float("inf")
    p99_ms: float = float("inf")
    rejected: int = 0
    """Answers of status 503."""
    errors: int = 0
    """Requests that got no answer, or another one than 200 and 503."""
    failure: str | None = None
    """Why the point cannot be served; None when it can."""

    @classmethod
    def of(cls, load: Load) -> "Slice":
        """The figures of a load."""
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
    """One point over one or several slices."""

    point: Point
    slices: tuple[Slice, ...]

    @property
    def failure(self) -> str | None:
        """Why the point cannot be served; None when it can."""
        reasons = [one.failure for one in self.slices if one.failure]
        if not reasons and (lost := sum(one.rejected + one.errors for one in self.slices)):
            return f"{lost} requests were not answered"
        return reasons[0] if reasons else None

    @property
    def throughput(self) -> float:
        """Answers a second: median of the slices."""
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
        """Median of the slices' 99th percentiles: a stall of the machine in one of them decides nothing."""
        return statistics.median(one.p99_ms for one in self.slices)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Most answers a second within a latency."""

    p99_ms: float | None = None
    """Latency that 99 % of the answers may take; None: any."""

    def __post_init__(self) -> None:
        if self.p99_ms is not None and self.p99_ms <= 0:
            raise ValueError(f"p99_ms: expected a positive number, got {self.p99_ms}")

    def meets(self, measured: Measured) -> bool:
        """Whether every request was answered, in time."""
        return measured.failure is None and (self.p99_ms is None or measured.p99_ms <= self.p99_ms)

    def is_better(self, one: Measured, other: Measured, margin: float = 0.0) -> bool:
        """Whether ``one`` is better by more than ``margin`` (a share): within the limit, faster; beyond it, nearer."""
        if (one.failure is None) != (other.failure is None):
            return one.failure is None
        if self.meets(one) != self.meets(other):
            return self.meets(one)
        if self.meets(one):
            return one.throughput > (1 + margin) * other.throughput
        return one.p99_ms < other.p99_ms / (1 + margin)

    def best(self, measured: Sequence[Measured]) -> Measured:
        """The best; of equal ones the first."""
        best = measured[0]
        for one in measured[1:]:
            if self.is_better(one, best):
                best = one
        return best


def frontier(measured: Sequence[Measured]) -> list[Measured]:
    """The points that no other beats in both throughput and p99, the lowest p99 first."""
    found: list[Measured] = []
    for one in sorted((one for one in measured if one.failure is None), key=lambda one: (one.p99_ms, -one.throughput)):
        if not found or one.throughput > found[-1].throughput:
            found.append(one)
    return found
