"""The metrics of answers that are labels as text, whatever the items are."""

from collections.abc import Mapping
from typing import Any

from marquee.training.core.task import row


def accuracy_lines(metrics: Mapping[str, Any], unit: str) -> list[str]:
    """The interval of the accuracy and, where there is a threshold, how many answers are accepted.

    Args:
        metrics: of an evaluation.
        unit: the plural noun for items, such as ``images``.
    """
    low, high = metrics["accuracy_interval"]
    lines = [row("95 % interval", f"{low:.4f} to {high:.4f}", f"of the accuracy, for this number of {unit}")]
    if abstain := metrics.get("abstain"):
        wrong = "none" if abstain["error"] is None else f"{abstain['error']:.4f}"
        answered = f"{abstain['accepted']:.4f}, of which wrong {wrong}"
        lines.append(row("answered", answered, "share of accepted answers; the others are below the threshold"))
    return lines


def class_lines(metrics: Mapping[str, Any], unit: str) -> list[str]:
    """Precision and recall of each class, and the confusion matrix, where items have one label each.

    Args:
        metrics: of an evaluation.
        unit: the plural noun for items, under which the classes count theirs.
    """
    lines = [f"{'class':>18s} {unit:>6s} precision recall     f1"]
    for values in metrics["per_class"]:
        shares = " ".join(_share(values[name]) for name in ("precision", "recall", "f1"))
        lines.append(f"{values['label']:>18s} {values[unit]:6d}    {shares}")
    if "confusion_matrix" in metrics:
        lines.append("confusion matrix (rows: truth, columns: prediction)")
        for values, counts in zip(metrics["per_class"], metrics["confusion_matrix"], strict=True):
            lines.append(f"  {values['label']:>16s} " + " ".join(f"{count:5d}" for count in counts))
    return lines


def _share(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:.4f}"
