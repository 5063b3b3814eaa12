"""The metric that candidates are compared by: in which direction it is better, and how it is written for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric of a run, and the quality that follows from it: larger is better, a difference is a fraction."""

    metric: str
    """Name of the metric in a run's metrics."""
    plural: str
    """Name of the list of all folds' values in ``selection.json``."""
    title: str
    """Its name for people."""
    unit: str = ""
    """Unit in which it is shown, such as %; empty: none."""
    gain_unit: str = ""
    """Unit of a difference, for sentences, with a space before it."""
    factor: float = 1.0
    """Factor from the metric to what is shown."""
    decimals: int = 2
    """Decimals that are shown."""
    higher_is_better: bool = True
    scale: float = 1.0
    """Value of the metric that counts as 1 in a quality: gains are compared with ``--min-gain`` as fractions of it."""
    low: float = 0.0
    high: float = math.inf
    """No value of the metric lies outside of low..high."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale: expected more than 0, got {self.scale}")

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}" if self.unit else self.title

    def of(self, metrics: Mapping[str, Any]) -> float:
        """The metric among those of a run.

        Raises:
            ValueError: it has no value.
        """
        value = metrics[self.metric]
        if value is None:
            raise ValueError(f"{self.metric}: has no value")
        return float(value)

    def qualities(self, values: Sequence[float]) -> list[float]:
        """The quality for each value of the metric."""
        sign = 1 if self.higher_is_better else -1
        return [sign * value / self.scale for value in values]

    def gain(self, difference: float) -> float:
        """A difference of qualities in units of the metric; positive is better, whichever direction that is."""
        return difference * self.scale

    def text(self, value: float | None) -> str:
        """A value of the metric, or a gain, as it is shown, without the unit; nothing for None."""
        return "" if value is None else f"{self.factor * value:.{self.decimals}f}"

    def brief(self, value: float) -> str:
        """A value with its unit and one decimal less, for a picture."""
        text = f"{self.factor * value:.{max(0, self.decimals - 1)}f}"
        return f"{text} {self.unit}" if self.unit else text

    def line(self, metrics: Mapping[str, Any]) -> str:
        """The metric among those of a run, for the log."""
        return f"{self.title} {self.of(metrics):.{self.decimals + round(math.log10(self.factor))}f}"

    def phrase(self, value: float | None) -> str:
        """A value with its unit."""
        return f"{self.text(value)} {self.unit}" if self.unit else self.text(value)


ACCURACY = Measure(
    metric="accuracy",
    plural="accuracies",
    title="accuracy",
    unit="%",
    gain_unit=" points",
    factor=100.0,
    high=1.0,
)
"""The share of right answers."""


def error_measure(metric: str, plural: str, title: str, unit: str, scale: float) -> Measure:
    """A measure of errors in the unit of what is predicted.

    Args:
        metric: its name in a run's metrics.
        plural: see :class:`Measure`.
        title: see :class:`Measure`.
        unit: of the predicted number; may be empty.
        scale: the error of the constant answer, which gains are compared with.
    """
    decimals = min(12, max(0, 3 - math.floor(math.log10(scale))))
    return Measure(
        metric=metric,
        plural=plural,
        title=title,
        unit=unit,
        gain_unit=f" {unit}" if unit else "",
        decimals=decimals,
        higher_is_better=False,
        scale=scale,
    )
