"""Statistics of a metric over folds, and the significance test for differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric over folds."""

    mean: float
    sd: float
    """Sample standard deviation over the folds."""
    low: float
    """Lower end of the 95 % confidence interval (Student's t), not below the metric's smallest value."""
    high: float
    """Upper end, not above the metric's largest value."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A paired difference over the same folds."""

    difference: float
    """Mean of candidate minus mean of reference."""
    p: float
    """Two-sided p-value of the corrected resampled t-test."""


def summarise(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> Summary:
    """Mean, standard deviation and confidence interval of a metric over at least two folds.

    Args:
        values: the metric, for each fold.
        low: its smallest value.
        high: its largest value.
    """
    from scipy import stats  # takes a second to import

    measured = np.asarray(values, dtype=np.float64)
    mean, sd = float(measured.mean()), float(measured.std(ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(measured) - 1))
    half = quantile * sd / len(measured) ** 0.5
    return Summary(mean=mean, sd=sd, low=max(low, mean - half), high=min(high, mean + half))


def compare(candidate: Sequence[float], reference: Sequence[float], test_per_train: float | None = None) -> Comparison:
    """Corrected resampled t-test for two candidates that were measured on the same k folds.

    The training sets of different folds overlap, so the plain paired t-test reports differences far too often. Nadeau
    and Bengio (Inference for the generalization error, Machine Learning 52, 2003) widen the variance of the mean from
    ``s^2 / k`` to ``(1/k + n_test/n_train) s^2``; in k-fold cross-validation ``n_test/n_train`` is ``1/(k - 1)``.

    Args:
        candidate: a quality (larger is better) for each fold.
        reference: the same of the other candidate.
        test_per_train: ``n_test/n_train``; None: that of k-fold cross-validation.
    """
    from scipy import stats

    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    k = len(differences)
    mean, variance = float(differences.mean()), float(differences.var(ddof=1))
    if np.ptp(differences) < 1e-12:  # no variance to divide by: the difference is the same in all folds
        return Comparison(difference=mean, p=1.0 if abs(mean) < 1e-12 else 0.0)
    ratio = 1 / (k - 1) if test_per_train is None else test_per_train
    t = mean / ((1 / k + ratio) * variance) ** 0.5
    return Comparison(difference=mean, p=float(2 * stats.t.sf(abs(t), k - 1)))
