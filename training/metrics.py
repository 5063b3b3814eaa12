"""Metrics of a classifier, from its probabilities."""

from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

ECE_BINS = 15


def classification_metrics(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Measures predictions.

    Args:
        probabilities: float (N, classes), rows sum to 1.
        targets: int (N,), the true indices.

    Returns:
        ``images``; ``accuracy``; ``balanced_accuracy`` (mean recall of the classes that occur); ``nll`` (mean negative
        log-likelihood, nats); ``ece`` (expected calibration error, 15 equal-width bins, Guo et al. 2017);
        ``confusion_matrix`` (rows: truth, columns: prediction).
    """
    values, truth = torch.from_numpy(probabilities).double(), torch.from_numpy(targets).long()
    classes = probabilities.shape[1]
    confusion = multiclass_confusion_matrix(values, truth, classes).numpy()
    per_class = confusion.sum(axis=1)
    present = per_class > 0
    of_truth = probabilities[np.arange(len(targets)), targets]
    return {
        "images": len(targets),
        "accuracy": float(np.trace(confusion) / len(targets)),
        "balanced_accuracy": float((np.diag(confusion)[present] / per_class[present]).mean()),
        # A probability of exactly 0 would make one image's loss infinite and hide all others.
        "nll": float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
        "ece": float(multiclass_calibration_error(values, truth, classes, n_bins=ECE_BINS, norm="l1")),
        "confusion_matrix": confusion.tolist(),
    }
