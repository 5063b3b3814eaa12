"""Metrics of a regression, from its answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marquee.training.core.statistics import share_interval

MEANINGS = {
    "rows": "number of evaluated rows",
    "rmse": "root of the mean squared error, in the target's unit; large errors count most",
    "mae": "mean absolute error, in the target's unit",
    "median_error": "half of the errors are smaller",
    "r2": "share of the target's variance that is explained; 1 is perfect, 0 is the mean",
    "bias": "mean of answer minus truth, in the target's unit",
    "coverage": "share of the intervals that contain the truth",
    "interval_width": "width of the intervals, in the target's unit",
}
"""Metric -> its meaning, in the order in which metrics are displayed."""


def regression_metrics(values: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Measures answers.

    Args:
        values: float (N,), the answers.
        targets: float (N,), the truth.

    Returns:
        ``rows``, ``rmse``, ``mae``, ``median_error``, ``bias`` and ``r2`` (None where the truth is constant).
    """
    errors = values - targets
    is_constant = targets.min() == targets.max()  # rounding gives equal numbers a variance, too
    return {
        "rows": len(targets),
        "rmse": float(np.sqrt((errors**2).mean())),
        "mae": float(np.abs(errors).mean()),
        "median_error": float(np.median(np.abs(errors))),
        "r2": None if is_constant else float(1 - (errors**2).mean() / targets.var()),
        "bias": float(errors.mean()),
    }


def coverage(values: np.ndarray, targets: np.ndarray, half_width: float, groups: Sequence[str]) -> dict[str, Any]:
    """How often the truth lies within the intervals.

    Args:
        values: float (N,), the answers.
        targets: float (N,), the truth.
        half_width: of the intervals.
        groups: see :func:`marquee.training.core.statistics.share_interval`.

    Returns:
        ``coverage``, its 95 % confidence interval ``coverage_interval``, and ``interval_width``.
    """
    inside = np.abs(values - targets) <= half_width
    return {
        "coverage": float(inside.mean()),
        "coverage_interval": share_interval(inside, groups),
        "interval_width": 2 * half_width,
    }
