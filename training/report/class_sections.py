"""The sections about the answers of a classifier: classes, confusions, reliability and abstaining."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.dataset import SPLITS
from marquee.training.report import class_figures
from marquee.training.report.class_predictions import ClassPredictions
from marquee.training.report.classes import ClassCounts, coverage_curve, coverage_points, top_confusions
from marquee.training.report.run_files import known
from marquee.training.tasks.classification.evaluation_text import weakest
from marquee.training.tasks.classification.metrics import reliability

_PAIRS = 12
MOST_ROWS = 100
"""Classes of which a table has a row each; of more, it has the weakest, or those with the fewest items."""


def class_context(
    evaluation: dict[str, Any], output: ClassificationSpec, predictions: ClassPredictions, matrix_classes: int
) -> dict[str, Any]:
    """The values of ``shared/classes.html`` and ``shared/confidence.html``.

    Args:
        evaluation: the content of ``evaluation.json``.
        output: labels and calibration.
        predictions: on the measured split.
        matrix_classes: largest number of classes for which the whole confusion matrix is shown.
    """
    return {
        "labels": output.labels,
        "classes": evaluation["per_class"],
        "shown_classes": shown_classes(evaluation["per_class"], MOST_ROWS),
        "interval": evaluation["accuracy_interval"],
        "confusions": top_confusions(evaluation, output.labels, _PAIRS),
        "matrix_classes": matrix_classes,
        **_calibration(evaluation, output.calibration.temperature, predictions),
        **_abstention(evaluation, predictions),
    }


def _calibration(evaluation: dict[str, Any], temperature: float, predictions: ClassPredictions) -> dict[str, Any]:
    served = evaluation["reliability"]
    before = reliability(predictions.uncalibrated, predictions.correct) if temperature != 1 else None
    return {
        "temperature": temperature,
        "calibration": known(evaluation.get("calibration")),
        "ece": evaluation["ece"],
        "ece_before": evaluation["uncalibrated"]["ece"] if before else None,
        "bins": served,
        "reliability_plot": class_figures.reliability_diagram("reliability", served, before),
        "histogram_plot": class_figures.confidence_histogram("confidence", predictions.confidence, predictions.correct),
    }


def _abstention(evaluation: dict[str, Any], predictions: ClassPredictions) -> dict[str, Any]:
    shares, errors = coverage_curve(predictions.confidence, predictions.correct)
    abstain = known(evaluation.get("abstain"))
    drawable = abstain.get("accepted") is not None and abstain.get("error") is not None
    point = (abstain["accepted"], abstain["error"]) if drawable else None
    return {
        "abstain": abstain,
        "coverage_plot": class_figures.coverage("coverage", shares, errors, point),
        "coverage_points": coverage_points(shares, errors),
    }


def shown_classes(classes: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """All classes, or, of more than so many, as many with the lowest recall."""
    return list(classes) if len(classes) <= most else weakest(classes)[:most]


def counts_context(
    labels: tuple[str, ...], by_split: Mapping[str, Counter[str]], left_out: Mapping[str, int] = MappingProxyType({})
) -> dict[str, Any]:
    """The values of ``shared/class_counts.html``.

    Args:
        labels: of the model.
        by_split: the classes of each split's items.
        left_out: class -> files of it that could not be used.
    """
    counts = [
        ClassCounts(label=label, left_out=left_out.get(label, 0), **{split: by_split[split][label] for split in SPLITS})
        for label in labels
    ]
    shown = counts if len(counts) <= MOST_ROWS else sorted(counts, key=lambda row: row.total)[:MOST_ROWS]
    return {
        "counts": shown,
        "all_counts": len(counts),
        "largest_class": max(row.total for row in counts),
        "any_left_out": any(row.left_out for row in shown),
    }
