"""Numbers about the answers of a regression that ``evaluation.json`` does not hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marquee.training.core.statistics import share_interval

PARTS = 4
"""Parts into which the measured rows are divided, by their predicted value."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows with similar answers."""

    low: float
    """Smallest predicted value."""
    high: float
    """Largest predicted value."""
    rows: int
    rmse: float
    bias: float
    """Mean of answer minus truth."""
    coverage: float | None
    """Share of the intervals that contain the truth; None where there are no intervals."""
    interval: tuple[float, float] | None
    """The 95 % confidence interval of ``coverage``."""


def parts_by_value(
    values: np.ndarray, targets: np.ndarray, inside: np.ndarray | None, groups: Sequence[str]
) -> list[Part]:
    """The rows in four parts of about equal size, by their answer; equal answers are in one part.

    Args:
        values: float (N,), the answers.
        targets: float (N,), the truth.
        inside: bool (N,), which intervals contain the truth; None: there are none.
        groups: see :func:`marquee.training.core.statistics.share_interval`.

    Returns:
        At least one part, the smallest answers first; fewer than four where many answers are equal.
    """
    order = np.argsort(values, kind="stable")
    cuts = values[order[[len(values) * part // PARTS for part in range(1, PARTS)]]]
    place = np.searchsorted(np.unique(cuts), values, side="right")
    parts = []
    for number in np.unique(place).tolist():
        chosen = np.flatnonzero(place == number)
        errors = values[chosen] - targets[chosen]
        covered = None if inside is None else inside[chosen]
        interval = None if covered is None else share_interval(covered, [groups[row] for row in chosen.tolist()])
        parts.append(
            Part(
                low=float(values[chosen].min()),
                high=float(values[chosen].max()),
                rows=len(chosen),
                rmse=float(np.sqrt((errors**2).mean())),
                bias=float(errors.mean()),
                coverage=None if covered is None else float(covered.mean()),
                interval=None if interval is None else (interval[0], interval[1]),
            )
        )
    return parts


def expected_coverage(rows: int, calibration_rows: int, level: float) -> tuple[float, float]:
    """Where 95 % of the coverages lie that split conformal intervals have on exchangeable rows.

    Of ``rows`` new ones, a beta-binomial number lies within intervals whose width is the k-th smallest error of
    ``calibration_rows`` others, k = ceil((calibration_rows + 1) level) (Vovk, 2012).
    """
    from scipy.stats import betabinom  # takes a second to import

    rank = min(calibration_rows, math.ceil((calibration_rows + 1) * level - 1e-9))
    low, high = betabinom.ppf((0.025, 0.975), rows, rank, calibration_rows + 1 - rank)
    return float(low) / rows, float(high) / rows


def error_of_a_constant(train: np.ndarray, targets: np.ndarray) -> float:
    """The RMSE of always answering the mean of the training rows: what a model must beat."""
    return float(np.sqrt(((targets - train.mean()) ** 2).mean()))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The target in one split."""

    rows: int
    low: float
    median: float
    high: float
    mean: float
    deviation: float


def spread_of(values: np.ndarray) -> Spread | None:
    """Statistics of float (N,); None without rows."""
    if len(values) == 0:
        return None
    return Spread(
        rows=len(values),
        low=float(values.min()),
        median=float(np.median(values)),
        high=float(values.max()),
        mean=float(values.mean()),
        deviation=float(values.std()),
    )
