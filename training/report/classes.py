"""Numbers about the answers of a classifier that ``evaluation.json`` does not hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Items of one class that were classified as one other class."""

    truth: str
    predicted: str
    count: int
    of: int
    """Items of the true class."""


def top_confusions(evaluation: dict[str, Any], labels: Sequence[str], limit: int) -> list[Confusion]:
    """The most frequent pairs of truth and wrong answer; none if an item may have several labels."""
    if "confusion_matrix" not in evaluation:
        return []
    matrix = np.array(evaluation["confusion_matrix"])
    totals = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:limit]
    cells = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    return [
        Confusion(truth=labels[i], predicted=labels[j], count=int(matrix[i, j]), of=int(totals[i]))
        for i, j in cells
        if matrix[i, j]
    ]


def coverage_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error among the most confident answers, for every share of accepted answers (El-Yaniv and Wiener, 2010).

    Returns:
        float (M,) shares and float (M,) errors; equal confidences are accepted together, so M may be less than N.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(confidence[order], append=-np.inf))
    accepted = last_of_ties + 1
    errors = np.cumsum(~correct[order])[last_of_ties]
    return accepted / len(confidence), errors / accepted


def coverage_points(shares: np.ndarray, errors: np.ndarray) -> list[tuple[float, float]]:
    """(share, error) for the largest accepted share that does not exceed each of a few limits."""
    below = {int(np.searchsorted(shares, limit + 1e-9)) - 1 for limit in (0.5, 0.8, 0.9, 0.95, 1.0)}
    return [(float(shares[i]), float(errors[i])) for i in sorted(below) if i >= 0]


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Items of one class in each split."""

    label: str
    train: int
    val: int
    test: int
    left_out: int = 0
    """Files that the data set has of it and that could not be used."""

    @property
    def total(self) -> int:
        """Over all splits."""
        return self.train + self.val + self.test
