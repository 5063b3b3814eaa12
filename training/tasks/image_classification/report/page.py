"""``report.html``: a self-contained page about a run, which loads no fonts, scripts or other files."""

import os
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marquee.handlers.core.schema import to_dict
from marquee.training.core.dataset import SPLITS
from marquee.training.core.files import write_atomic
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.metrics import reliability
from marquee.training.tasks.image_classification.report import measures, plots
from marquee.training.tasks.image_classification.report.facts import RunFacts, read_facts
from marquee.training.tasks.image_classification.report.pictures import augmentation_samples, least_sure, worst_mistakes
from marquee.training.tasks.image_classification.report.text import environment

MATRIX_CLASSES = 40
"""Largest number of classes for which the whole confusion matrix is shown."""
_GALLERY, _SAMPLES, _VARIATIONS, _PAIRS, _REJECTED = 12, 6, 6, 12, 50


def write_report(run: Path) -> Path:
    """Writes ``RUN/report.html`` from the run folder and the image files that its manifest names.

    Files that are missing or have changed are marked as such.

    Returns:
        The path of the page.

    Raises:
        TrainingError: the folder is not a finished run; the message names the file.
    """
    facts = read_facts(run)
    page = environment(html=True).get_template("template.html").render(_context(facts))
    path = RunFolder(facts.folder).report
    write_atomic(path, page)
    return path


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Images of one class in each split."""

    label: str
    train: int
    val: int
    test: int

    @property
    def total(self) -> int:
        """Over all splits."""
        return self.train + self.val + self.test


def _context(facts: RunFacts) -> dict[str, Any]:
    return {
        "facts": facts,
        "evaluation": facts.evaluation,
        "classes": facts.evaluation["per_class"],
        "confusions": measures.top_confusions(facts, _PAIRS),
        "matrix_classes": MATRIX_CLASSES,
        "interval": facts.evaluation["accuracy_interval"],
        "throughput": measures.throughput(facts),
        "seconds": facts.evaluation.get("train_seconds") or sum(line.get("seconds", 0) for line in facts.epochs),
        "short": _Shortener(facts),
        **_curves(facts),
        **_calibration(facts),
        **_abstention(facts),
        "mistakes": worst_mistakes(facts, _GALLERY),
        "unsure": least_sure(facts, _GALLERY),
        "samples": augmentation_samples(facts, _SAMPLES, _VARIATIONS),
        "enlarge": facts.image.crop < 128,
        **_variants(facts),
        **_data(facts),
        "config": to_dict(facts.config),
        "environment": _flat(facts.environment),
    }


def _curves(facts: RunFacts) -> dict[str, Any]:
    epochs, best = facts.epochs, facts.evaluation.get("best_epoch")
    loss = {"training": "train_loss", "validation": "val_loss"}
    accuracy = {"training": "train_accuracy", "validation": "val_accuracy"}
    return {
        "best": next((line for line in epochs if line.get("epoch") == best), None),
        "loss_plot": plots.curve("loss", epochs, loss, best),
        "accuracy_plot": plots.curve("accuracy", epochs, accuracy, best, share=True),
        "lr_plot": plots.curve("lr", epochs, {"learning rate": "lr"}, best),
    }


def _variants(facts: RunFacts) -> dict[str, Any]:
    optimization = facts.optimization
    if optimization is None:
        return {"variants": None}
    measured = {name: values for name, values in optimization["variants"].items() if "latency_p50_ms" in values}
    return {
        "variants": measured,
        "optimization": optimization,
        "variants_plot": plots.variants("variants", measured, optimization["frontier"], optimization["chosen"]),
    }


def _calibration(facts: RunFacts) -> dict[str, Any]:
    predictions = facts.predictions
    served = facts.evaluation["reliability"]
    temperature = facts.output.calibration.temperature
    before = reliability(predictions.uncalibrated, predictions.correct) if temperature != 1 else None
    return {
        "temperature": temperature,
        "calibration": measures.known(facts.evaluation.get("calibration")),
        "ece": facts.evaluation["ece"],
        "ece_before": facts.evaluation["uncalibrated"]["ece"] if before else None,
        "bins": served,
        "reliability_plot": plots.reliability_diagram("reliability", served, before),
        "histogram_plot": plots.confidence_histogram("confidence", predictions.confidence, predictions.correct),
    }


def _abstention(facts: RunFacts) -> dict[str, Any]:
    shares, errors = measures.coverage_curve(facts.predictions.confidence, facts.predictions.correct)
    abstain = measures.known(facts.evaluation.get("abstain"))
    drawable = abstain.get("accepted") is not None and abstain.get("error") is not None
    point = (abstain["accepted"], abstain["error"]) if drawable else None
    # The largest accepted share that does not exceed each of these limits.
    below = [int(np.searchsorted(shares, limit + 1e-9)) - 1 for limit in (0.5, 0.8, 0.9, 0.95, 1.0)]
    return {
        "abstain": abstain,
        "ood": measures.known(facts.evaluation.get("ood")),
        "coverage_plot": plots.coverage("coverage", shares, errors, point),
        "coverage_points": [(float(shares[i]), float(errors[i])) for i in sorted(set(below)) if i >= 0],
    }


def _data(facts: RunFacts) -> dict[str, Any]:
    records = facts.manifest.records
    by_class = {
        split: Counter(name for record in facts.manifest.split(split) for name in facts.manifest.names_of(record))
        for split in SPLITS
    }
    counts = [
        ClassCounts(label=label, **{split: by_class[split][label] for split in SPLITS}) for label in facts.output.labels
    ]
    widths, heights = [record.width for record in records], [record.height for record in records]
    return {
        "counts": counts,
        "largest_class": max(row.total for row in counts),
        "split_sizes": {split: len(facts.manifest.split(split)) for split in SPLITS},
        "sizes": {
            "smallest": (min(widths), min(heights)),
            "median": (round(statistics.median(widths)), round(statistics.median(heights))),
            "largest": (max(widths), max(heights)),
        },
        "modes": Counter(record.mode for record in records).most_common(),
        "rejected": facts.rejected[:_REJECTED],
    }


class _Shortener:
    """Paths relative to the folder that holds all images: a report that is passed on should not reveal more."""

    def __init__(self, facts: RunFacts) -> None:
        folders = {os.path.dirname(record.path) for record in facts.manifest.records}  # noqa: PTH120 - pure text
        try:
            self._root = os.path.commonpath(folders)
        except ValueError:  # drives differ, or some paths are relative
            self._root = ""

    def __call__(self, path: str) -> str:
        if self._root and path.startswith(self._root.rstrip(os.sep) + os.sep):
            return os.path.relpath(path, self._root)
        return path


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, dict):
            flat |= _flat(item, f"{name}: ")
        else:
            flat[name] = ", ".join(map(str, item)) or "none" if isinstance(item, list) else item
    return flat
