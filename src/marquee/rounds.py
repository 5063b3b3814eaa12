"""Compares what was measured in interleaved rounds: is one faster than another by more than the measurements vary?

Rounds are paired: both were measured in each of them, one after the other, so that other load on the machine slows
both. The ratio of each round is one observation; the interval is Student's for the mean of their logarithms.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
ENOUGH_IN_ONE_ROUND = 1.25
"""What counts as faster where there was one round only, which says nothing of the spread."""
STEADY = 0.25
"""Largest spread of the rounds of one thing, relative to their median, that still counts as steady."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as another."""

    value: float
    low: float
    high: float
    """Its 95 % interval; 0 and infinity where there was one round only."""

    @property
    def is_more(self) -> bool:
        """Whether the first is faster by more than the measurements vary."""
        return self.low > 1 if math.isfinite(self.high) else self.value > ENOUGH_IN_ONE_ROUND

    def __str__(self) -> str:
        if not math.isfinite(self.high):
            return f"{self.value:.2f} times, in one round"
        return f"{self.value:.2f} times (95 %: {self.low:.2f} to {self.high:.2f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Compares two speeds.

    Args:
        first: positive speeds, one for each round.
        second: of another, in the same rounds.

    Raises:
        ValueError: there is no round, or their numbers differ.
    """
    if not first:
        raise ValueError("first: expected at least one round")
    logs = [math.log(one / other) for one, other in zip(first, second, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(math.exp(mean), 0.0, math.inf)
    from scipy.special import stdtrit  # takes a moment, and commands import this module

    quantile = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def spread(values: Sequence[float]) -> float:
    """Range of the rounds of one thing, relative to their median."""
    return (max(values) - min(values)) / statistics.median(values)
