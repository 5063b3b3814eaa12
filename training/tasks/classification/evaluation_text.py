"""The metrics of answers that are labels as text, whatever the items are."""

from collections.abc import Mapping, Sequence
from typing import Any

from marquee.handlers.core.quoting import one_line
from marquee.training.core.task import row
from marquee.training.report.classes import top_confusions

MOST_CLASSES, WEAKEST, CONFUSIONS = 40, 20, 10
"""Number of classes up to which all are shown; of more, how many classes and how many confusions."""


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

    Of more than :data:`MOST_CLASSES` classes, the weakest and the most frequent confusions are shown.

    Args:
        metrics: of an evaluation.
        unit: the plural noun for items, under which the classes count theirs.
    """
    classes, matrix = metrics["per_class"], metrics.get("confusion_matrix")
    total, shown = len(classes), classes
    if total > MOST_CLASSES:
        shown = weakest(classes)[:WEAKEST]
    lines = [f"{'class':>18s} {unit:>6s} precision recall     f1"]
    for values in shown:
        shares = " ".join(_share(values[name]) for name in ("precision", "recall", "f1"))
        lines.append(f"{one_line(values['label']):>18s} {values[unit]:6d}    {shares}")
    if len(shown) < total:
        lines.append(f"the {len(shown)} of {total:,} classes with the lowest recall; --json has all of them")
        return lines + _confusions(metrics, unit)
    if matrix is not None:
        lines.append("confusion matrix (rows: truth, columns: prediction)")
        for values, counts in zip(classes, matrix, strict=True):
            lines.append(f"  {one_line(values['label']):>16s} " + " ".join(f"{count:5d}" for count in counts))
    return lines


def weakest(classes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The classes with the lowest recall first; those without items come last."""
    return sorted(classes, key=lambda row: (row["recall"] is None, row["recall"]))


def _confusions(metrics: Mapping[str, Any], unit: str) -> list[str]:
    labels = [row["label"] for row in metrics["per_class"]]
    pairs = top_confusions(dict(metrics), labels, CONFUSIONS)
    if not pairs:
        return []
    lines = ["most frequent confusions (truth, prediction)"]
    return lines + [
        one_line(f"  {pair.truth!r} as {pair.predicted!r}: {pair.count:,} of {pair.of:,} {unit}") for pair in pairs
    ]


def _share(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:.4f}"
