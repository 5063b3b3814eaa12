"""Numbers of the report that ``evaluation.json`` may lack, from the confusion matrix and the predictions."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.metrics import ECE_BINS
from training.report.facts import RunFacts

_Z95 = 1.959963984540054
"""The normal distribution's quantile for a two-sided 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class ClassMeasures:
    """One class on the measured split; None where there is nothing to divide by."""

    label: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bar of a reliability diagram (DeGroot and Fienberg, 1983): the images of one range of confidence."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    """Mean confidence; None for an empty bin."""
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Images of one class that were taken for one other."""

    truth: str
    predicted: str
    count: int
    of: int
    """Images of the true class."""


def accuracy_interval(facts: RunFacts) -> tuple[float, float]:
    """The 95 % interval of the accuracy, as evaluated or else Wilson's (1927)."""
    if given := facts.evaluation.get("accuracy_interval"):
        return float(given[0]), float(given[1])
    return wilson(facts.evaluation["accuracy"], facts.evaluation["images"])


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (J. Am. Stat. Assoc. 22, 1927) at 95 % for ``share`` of ``count`` trials."""
    centre = share + _Z95**2 / (2 * count)
    half = _Z95 * math.sqrt(share * (1 - share) / count + _Z95**2 / (4 * count**2))
    scale = 1 + _Z95**2 / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def per_class(facts: RunFacts) -> list[ClassMeasures]:
    """Precision, recall and F1 of every class, in the order of the labels."""
    if given := facts.evaluation.get("per_class"):
        names = ("label", "images", "precision", "recall", "f1")
        return [ClassMeasures(**{name: row.get(name) for name in names}) for row in given]
    matrix = np.array(facts.evaluation["confusion_matrix"])
    rows = []
    for i, label in enumerate(facts.spec.labels):
        hits, images, answers = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
        rows.append(
            ClassMeasures(
                label=label,
                images=images,
                precision=hits / answers if answers else None,
                recall=hits / images if images else None,
                f1=2 * hits / (images + answers) if images + answers else None,
            )
        )
    return rows


def top_confusions(facts: RunFacts, limit: int) -> list[Confusion]:
    """The most frequent pairs of truth and wrong answer."""
    matrix = np.array(facts.evaluation["confusion_matrix"])
    of, labels = matrix.sum(axis=1), facts.spec.labels
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:limit]
    cells = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    return [
        Confusion(truth=labels[i], predicted=labels[j], count=int(matrix[i, j]), of=int(of[i]))
        for i, j in cells
        if matrix[i, j]
    ]


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[Bin]:
    """Equal-width bins of confidence (Guo et al. 2017); each holds its upper edge."""
    place = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    bins = []
    for i in range(ECE_BINS):
        inside = place == i
        some = bool(inside.any())
        bins.append(
            Bin(
                lower=i / ECE_BINS,
                upper=(i + 1) / ECE_BINS,
                count=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if some else None,
                accuracy=float(correct[inside].mean()) if some else None,
            )
        )
    return bins


def served_reliability(facts: RunFacts) -> list[Bin]:
    """The bins of the served confidence, as evaluated or else from the predictions."""
    if given := facts.evaluation.get("reliability"):
        names = ("lower", "upper", "count", "confidence", "accuracy")
        return [Bin(**{name: row.get(name) for name in names}) for row in given]
    return reliability(facts.predictions.confidence, facts.predictions.correct)


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error (Naeini et al. 2015): mean gap of confidence and accuracy, weighted by count."""
    gaps = [
        item.count * abs(item.confidence - item.accuracy)
        for item in bins
        if item.confidence is not None and item.accuracy is not None
    ]
    return sum(gaps) / max(1, sum(item.count for item in bins))


def coverage_curve(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error among the surest answers, for every share of answers that is accepted (El-Yaniv and Wiener, 2010).

    Returns:
        float (M,) shares and float (M,) errors; equal confidences are accepted together, so M may be less than N.
    """
    order = np.argsort(-confidence, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(confidence[order], append=-np.inf))
    accepted = last_of_equals + 1
    errors = np.cumsum(~correct[order])[last_of_equals]
    return accepted / len(confidence), errors / accepted


def throughput(facts: RunFacts) -> float | None:
    """Training images a second in the median epoch; the first one also warms caches."""
    rates = [line["images_per_second"] for line in facts.epochs if line.get("images_per_second")]
    return float(np.median(rates)) if rates else None


def known(part: Any) -> dict[str, Any]:
    """An optional object of ``evaluation.json``, empty when absent or null."""
    return part if isinstance(part, dict) else {}
