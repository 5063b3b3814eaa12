"""The metrics of an evaluation as text."""

from collections.abc import Mapping
from typing import Any

from marquee.training.core.task import row
from marquee.training.tasks.classification.evaluation_text import accuracy_lines, class_lines

MEANINGS = {
    "images": "number of evaluated images",
    "accuracy": "share of the images that are answered correctly",
    "balanced_accuracy": "mean recall of the classes: every class has the same weight, rare or common",
    "f1_micro": "precision and recall in one number, over all labels together",
    "f1_macro": "the same for each label, averaged over labels",
    "mean_average_precision": "how well each label's images are ranked before the others; 1 is perfect",
    "auroc": "how often an image with a label is ranked above one without; 0.5 is chance",
    "nll": "negative log-likelihood in nats: penalises confident wrong answers; lower is better",
    "brier": "squared error of the probabilities; lower is better",
    "ece": "expected calibration error: difference between probabilities and the share of right answers",
}
"""Metric -> its meaning, in the order in which metrics are displayed."""


def details(metrics: Mapping[str, Any]) -> list[str]:
    """Metrics of more than one number: the interval, thresholds, classes and confusions."""
    lines = accuracy_lines(metrics, "images")
    if "ood" in metrics:
        flagged = f"{metrics['ood']['flagged']:.4f}"
        lines.append(row("unfamiliar", flagged, "share of images unlike the training images"))
    return lines + class_lines(metrics, "images")
