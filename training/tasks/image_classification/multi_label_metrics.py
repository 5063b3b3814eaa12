"""Metrics where an image may have several labels, or none."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from marquee.training.core.statistics import share_interval
from marquee.training.tasks.classification.metrics import calibration_error, rates, reliability


def multi_label_metrics(
    probabilities: np.ndarray, targets: np.ndarray, threshold: float = 0.5, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Measures predictions.

    Args:
        probabilities: float (N, classes), each between 0 and 1.
        targets: zeros and ones (N, classes).
        threshold: a label with at least this probability is predicted.
        groups: see :func:`marquee.training.core.statistics.share_interval`.

    Returns:
        ``images``; ``accuracy`` (share of images all of whose labels are right) with its ``accuracy_interval``;
        ``f1_micro`` and ``f1_macro``; ``mean_average_precision`` and ``auroc`` (means over the labels that some images
        have and others do not); ``nll`` and ``brier`` (means over images and labels); ``ece`` and ``reliability`` of
        the individual decisions; ``per_class`` (``images``, ``precision``, ``recall``, ``f1``, ``average_precision``).
    """
    truth, predicted = targets > 0.5, probabilities >= threshold
    all_right = (truth == predicted).all(axis=1)
    columns = zip(truth.T, predicted.T, probabilities.T, strict=True)
    per_class = [_measure_label(*column) for column in columns]
    true_probability = np.where(truth, probabilities, 1 - probabilities)
    return {
        "images": len(targets),
        "accuracy": int(all_right.sum()) / len(targets),
        "accuracy_interval": share_interval(all_right, groups),
        "f1_micro": rates(int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum()))["f1"],
        "f1_macro": _mean([row["f1"] for row in per_class]),
        "mean_average_precision": _mean([row["average_precision"] for row in per_class]),
        "auroc": _mean([row.pop("auroc") for row in per_class]),
        **multi_label_confidence_metrics(probabilities, targets, threshold),
        "brier": float(((1 - true_probability) ** 2).mean()),
        "reliability": _reliability(probabilities, truth, predicted),
        "per_class": per_class,
    }


def multi_label_confidence_metrics(
    probabilities: np.ndarray, targets: np.ndarray, threshold: float = 0.5
) -> dict[str, float]:
    """``nll`` and ``ece`` of :func:`multi_label_metrics`, which are cheap to compute."""
    truth, predicted = targets > 0.5, probabilities >= threshold
    true_probability = np.where(truth, probabilities, 1 - probabilities)
    return {
        # A probability of exactly 0 would make one label's loss infinite and hide all others.
        "nll": float(-np.log(np.maximum(true_probability, 1e-12)).mean()),
        "ece": calibration_error(_reliability(probabilities, truth, predicted)),
    }


def _reliability(probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> list[dict[str, float]]:
    """The reliability of the individual decisions."""
    confidence = np.where(predicted, probabilities, 1 - probabilities)
    return reliability(confidence.ravel(), (truth == predicted).ravel())


def _measure_label(truth: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> dict[str, float | None]:
    """The metrics of one label over all images; None where a measure needs images with and without it."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes a second to import

    has_both = bool(truth.any() and not truth.all())
    return {
        **rates(int((truth & predicted).sum()), int(truth.sum()), int(predicted.sum())),
        "average_precision": float(average_precision_score(truth, probability)) if has_both else None,
        "auroc": float(roc_auc_score(truth, probability)) if has_both else None,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
