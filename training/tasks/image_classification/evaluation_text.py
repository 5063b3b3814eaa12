"""The metrics of an evaluation as text."""

from collections.abc import Mapping
from typing import Any

from marquee.training.core.task import row

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
    low, high = metrics["accuracy_interval"]
    lines = [row("95 % interval", f"{low:.4f} to {high:.4f}", "of the accuracy, for this number of images")]
    if abstain := metrics.get("abstain"):
        wrong = "none" if abstain["error"] is None else f"{abstain['error']:.4f}"
        answered = f"{abstain['accepted']:.4f}, of which wrong {wrong}"
        lines.append(row("answered", answered, "share of accepted answers; the others are below the threshold"))
    if "ood" in metrics:
        flagged = f"{metrics['ood']['flagged']:.4f}"
        lines.append(row("unfamiliar", flagged, "share of images unlike the training images"))
    lines.append(f"{'class':>18s} images precision recall     f1")
    for class_metrics in metrics["per_class"]:
        shares = " ".join(_share(class_metrics[name]) for name in ("precision", "recall", "f1"))
        lines.append(f"{class_metrics['label']:>18s} {class_metrics['images']:6d}    {shares}")
    if "confusion_matrix" in metrics:
        lines.append("confusion matrix (rows: truth, columns: prediction)")
        for class_metrics, counts in zip(metrics["per_class"], metrics["confusion_matrix"], strict=True):
            lines.append(f"  {class_metrics['label']:>16s} " + " ".join(f"{count:5d}" for count in counts))
    return lines


def _share(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:.4f}"
