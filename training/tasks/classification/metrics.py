"""Metrics of a classifier, from its probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marquee.training.core.statistics import share_interval

ECE_BINS = 15


def classification_metrics(
    probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measures predictions.

    Args:
        probabilities: float (N, classes), rows sum to 1.
        targets: int (N,), the true indices.
        groups: see :func:`marquee.training.core.statistics.share_interval`.

    Returns:
        ``images``; ``accuracy``; ``accuracy_interval`` (95 %); ``balanced_accuracy`` (mean recall of the
        classes that occur); ``nll`` (mean negative log-likelihood, nats); ``brier`` (squared distance to the truth,
        summed over classes, 0 to 2); ``auroc`` (one class against the rest, mean over the classes that occur; None when
        only one does); ``ece`` (expected calibration error, Guo et al., 2017) of the bins in ``reliability`` (see
        :func:`reliability`); ``per_class`` (``images``, ``precision``, ``recall``, ``f1``); ``confusion_matrix`` (rows:
        truth, columns: prediction).
    """
    classes, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    confusion = np.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)
    per_class = confusion.sum(axis=1)
    present = per_class > 0
    right = int(np.trace(confusion))
    true_probability = probabilities[np.arange(len(targets)), targets]
    return {
        "images": len(targets),
        "accuracy": right / len(targets),
        "accuracy_interval": share_interval(predicted == targets, groups),
        "balanced_accuracy": float((np.diag(confusion)[present] / per_class[present]).mean()),
        **confidence_metrics(probabilities, targets),
        "brier": float(((probabilities**2).sum(axis=1) - 2 * true_probability + 1).mean()),
        "auroc": _auroc(probabilities, targets, present),
        "reliability": reliability(probabilities.max(axis=1), predicted == targets),
        "per_class": _per_class(confusion),
        "confusion_matrix": confusion.tolist(),
    }


def confidence_metrics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """``nll`` and ``ece`` of :func:`classification_metrics`, which are cheap to compute."""
    true_probability = probabilities[np.arange(len(targets)), targets]
    bins = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)
    return {
        # A probability of exactly 0 would make one image's loss infinite and hide all others.
        "nll": float(-np.log(np.maximum(true_probability, 1e-12)).mean()),
        "ece": calibration_error(bins),
    }


def abstention(confidence: np.ndarray, right: np.ndarray, min_probability: float) -> dict[str, float | None]:
    """What a threshold of the probability does.

    Args:
        confidence: float (N,), probability of the likeliest label.
        right: bool (N,).
        min_probability: answers with less are not accepted.

    Returns:
        ``min_probability``; ``accepted``, the share of answers that are; ``error``, the share of wrong ones among
        those, None when there are none.
    """
    accepted = confidence >= min_probability
    return {
        "min_probability": min_probability,
        "accepted": float(accepted.mean()),
        "error": float((~right[accepted]).mean()) if accepted.any() else None,
    }


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Confidence against accuracy in 15 equal-width bins (DeGroot and Fienberg, 1983).

    A bin contains its lower end; the last one contains both, so that a confidence of exactly 1 lies in it.

    Args:
        confidence: float (N,), probability of the likeliest label.
        right: bool (N,).

    Returns:
        ``lower``, ``upper``, ``count``, ``confidence`` and ``accuracy`` of each bin that is not empty.
    """
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return [
        {
            "lower": number / ECE_BINS,
            "upper": (number + 1) / ECE_BINS,
            "count": int((bins == number).sum()),
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
        }
        for number in np.unique(bins).tolist()
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al., 2017): |confidence - accuracy|, averaged over predictions.

    Args:
        bins: from :func:`reliability`.
    """
    images = sum(row["count"] for row in bins)
    return sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / images


def _auroc(probabilities: np.ndarray, targets: np.ndarray, present: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score  # takes a second to import

    if present.sum() < 2:
        return None
    areas = [roc_auc_score(targets == number, probabilities[:, number]) for number in np.flatnonzero(present)]
    return float(np.mean(areas))


def _per_class(confusion: np.ndarray) -> list[dict[str, float | None]]:
    right, truth, predicted = (counts.tolist() for counts in (np.diag(confusion), confusion.sum(1), confusion.sum(0)))
    return [rates(*counts) for counts in zip(right, truth, predicted, strict=True)]


def rates(right: int, truth: int, predicted: int) -> dict[str, float | None]:
    """``images``, ``precision``, ``recall`` and ``f1`` of one class, from counts.

    None where the denominator is zero: a class that was never predicted, or one without images.
    """
    return {
        "images": truth,
        "precision": right / predicted if predicted else None,
        "recall": right / truth if truth else None,
        "f1": 2 * right / (truth + predicted) if truth + predicted else None,
    }


def loses_most(labels: Sequence[str], targets: np.ndarray, before: np.ndarray, after: np.ndarray, unit: str) -> str:
    """The class of which the largest share of answers was right and no longer is, as a sentence; empty for none.

    Args:
        labels: class names in the order of their indices.
        targets: int (N,), indices of the labels; or (N, labels) of zeros and ones.
        before: bool (N,), which answers were right.
        after: bool (N,), which are.
        unit: the plural noun for items.
    """
    worst, line = 0.0, ""
    for index, label in enumerate(labels):
        members = targets == index if targets.ndim == 1 else targets[:, index] > 0
        right, now, total = (int(values[members].sum()) for values in (before, after, np.ones(len(targets), bool)))
        if total and (right - now) / total > worst:
            worst = (right - now) / total
            line = f"loses most in class {label!r}: {now} of its {total} {unit} right, {right} before"
    return line
