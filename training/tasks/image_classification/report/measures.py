"""Numbers of the report that ``evaluation.json`` does not hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from marquee.training.tasks.image_classification.report.facts import RunFacts


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that were classified as one other class."""

    truth: str
    predicted: str
    count: int
    of: int
    """Images of the true class."""


def top_confusions(facts: RunFacts, limit: int) -> list[Confusion]:
    """The most frequent pairs of truth and wrong answer; none if an image may have several labels."""
    if "confusion_matrix" not in facts.evaluation:
        return []
    matrix = np.array(facts.evaluation["confusion_matrix"])
    totals, labels = matrix.sum(axis=1), facts.output.labels
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


def throughput(facts: RunFacts) -> float | None:
    """Training images per second in the median epoch; the first epoch also fills caches."""
    rates = [line["images_per_second"] for line in facts.epochs if line.get("images_per_second")]
    return float(np.median(rates)) if rates else None


def known(part: Any) -> dict[str, Any]:
    """An optional object of ``evaluation.json``, empty when absent or null."""
    return part if isinstance(part, dict) else {}
