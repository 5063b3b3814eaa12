"""Counters and histograms that are kept in a worker until they are reported.

TorchServe's own histograms have fixed buckets from 5 ms, and each of its observations is a line of text that its front
end parses. So a worker counts here, in memory, and reports *increments* now and then
(:mod:`marquee.handlers.core.metrics_emitter`). The front end adds up the increments of all workers of a model. A
histogram is reported as what Prometheus makes of one: a counter ``NAME_bucket`` for each upper bound ``le``,
cumulative, with ``NAME_sum`` and ``NAME_count``.
"""

import threading
from bisect import bisect_left
from dataclasses import dataclass

Labels = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One metric with all its label values. Compared by identity, for it is looked up at every event."""

    name: str
    """As Prometheus shows it; without ``_bucket``, ``_sum``, ``_count`` for a histogram."""
    labels: tuple[str, ...] = ()
    """Names of its labels."""
    unit: str = "Count"
    """For the help text of the front end: letters only."""
    bounds: tuple[float, ...] | None = None
    """Upper bounds of a histogram's buckets, inclusive, ascending; ``+Inf`` is added. None: a plain counter."""

    def __post_init__(self) -> None:
        if self.bounds is not None and list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"bounds: expected ascending numbers, got {list(self.bounds)}")


@dataclass(frozen=True)
class Increment:
    """By how much one series has grown since the last report."""

    name: str
    """Of the series, such as ``marquee_stage_seconds_bucket``."""
    labels: tuple[tuple[str, str], ...]
    """(name, value), in the order of the family's labels, ``le`` last."""
    value: float
    """Not negative."""
    unit: str
    """See :attr:`Family.unit`."""


@dataclass(frozen=True)
class Observation:
    """One event: a value for a histogram, or one more for a counter."""

    family: Family
    value: float = 1
    labels: Labels = ()
    """One value for each label of the family."""


class Accumulator:
    """Counts until :meth:`drain`; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._counts: dict[tuple[Family, Labels], float] = {}
        self._observations: dict[tuple[Family, Labels], _Observations] = {}

    def add(self, family: Family, *labels: str, amount: float = 1) -> None:
        """Adds to a counter.

        Args:
            family: a counter.
            labels: one value for each of its labels.
            amount: not negative.
        """
        with self._lock:
            self._counts[family, labels] = self._counts.get((family, labels), 0) + amount
            self._wake()

    def observe(self, family: Family, value: float, *labels: str) -> None:
        """Puts one value into a histogram.

        Args:
            family: a histogram.
            value: in the unit of the histogram.
            labels: one value for each of its labels.
        """
        with self._lock:
            observations = self._observations.get((family, labels))
            if observations is None:
                observations = self._observations[family, labels] = _Observations([0] * (len(family.bounds or ()) + 1))
            observations.buckets[bisect_left(family.bounds or (), value)] += 1
            observations.total += value
            self._wake()

    def record(self, observation: Observation) -> None:
        """Counts one event."""
        if observation.family.bounds is None:
            self.add(observation.family, *observation.labels, amount=observation.value)
        else:
            self.observe(observation.family, observation.value, *observation.labels)

    def _wake(self) -> None:
        if not self._something.is_set():  # asking is cheaper than setting
            self._something.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Returns True as soon as there is something to drain, or False after ``timeout`` seconds."""
        return self._something.wait(timeout)

    def drain(self) -> list[Increment]:
        """What was counted since the last call; series that did not grow are left out."""
        with self._lock:
            self._something.clear()
            counts, self._counts = self._counts, {}
            observed, self._observations = self._observations, {}
        increments = [_counter(family, labels, count) for (family, labels), count in counts.items()]
        for (family, labels), observations in observed.items():
            increments += _histogram(family, labels, observations)
        return [increment for increment in increments if increment.value]


def zeros(family: Family, *labels: str) -> list[Increment]:
    """Every series of one set of label values, at 0.

    Prometheus sees growth only between two values of a series: one that began at 1 would have its first event left out.
    """
    if family.bounds is None:
        return [_counter(family, labels, 0)]
    return _histogram(family, labels, _Observations([0] * (len(family.bounds) + 1)))


@dataclass
class _Observations:
    buckets: list[int]
    """Values in each bucket alone, the one without upper bound last."""
    total: float = 0.0


def _counter(family: Family, labels: Labels, value: float) -> Increment:
    return Increment(family.name, tuple(zip(family.labels, labels, strict=True)), value, family.unit)


def _histogram(family: Family, labels: Labels, observations: _Observations) -> list[Increment]:
    named = tuple(zip(family.labels, labels, strict=True))
    bounds = [*(f"{bound:g}" for bound in family.bounds or ()), "+Inf"]
    increments, below = [], 0
    for bound, count in zip(bounds, observations.buckets, strict=True):
        below += count
        increments.append(Increment(f"{family.name}_bucket", (*named, ("le", bound)), below, "Count"))
    increments.append(Increment(f"{family.name}_sum", named, observations.total, family.unit))
    increments.append(Increment(f"{family.name}_count", named, below, "Count"))
    return increments
