"""``report.html``: a self-contained page about a run, which loads no fonts, scripts or other files."""

import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from marquee.handlers.core.schema import to_dict
from marquee.training.core.dataset import SPLITS
from marquee.training.core.files import write_atomic
from marquee.training.core.run_folder import RunFolder
from marquee.training.report.class_sections import class_context, counts_context
from marquee.training.report.run_files import known
from marquee.training.report.text import environment, flat, number, percent
from marquee.training.report.training import Measured, throughput, training_context
from marquee.training.report.variants import variants_context
from marquee.training.tasks.image_classification.data.lost import lost_by_class
from marquee.training.tasks.image_classification.report.facts import RunFacts, read_facts
from marquee.training.tasks.image_classification.report.notes import data_notes, overlap_notes
from marquee.training.tasks.image_classification.report.pictures import augmentation_samples, least_sure, worst_mistakes

MATRIX_CLASSES = 40
"""Largest number of classes for which the whole confusion matrix is shown."""
_GALLERY, _SAMPLES, _VARIATIONS, _REJECTED = 12, 6, 6, 50
_BALANCED = Measured(name="Balanced accuracy", key="balanced_accuracy", show=percent)
_LOSS = Measured(
    name="Loss",
    key="loss",
    show=lambda value: number(value, 4),
    caption="Loss. The training loss includes label smoothing and augmentation.",
)
_ACCURACY = Measured(name="Accuracy", key="accuracy", show=percent, caption="Accuracy.", share=True)


def write_report(run: Path) -> Path:
    """Writes ``RUN/report.html`` from the run folder and the image files that its manifest names.

    Files that are missing or have changed are marked as such.

    Returns:
        The path of the page.

    Raises:
        TrainingError: the folder is not a finished run; the message names the file.
    """
    facts = read_facts(run)
    page = environment(__package__, html=True).get_template("template.html").render(_context(facts))
    path = RunFolder(facts.folder).report
    write_atomic(path, page)
    return path


def _context(facts: RunFacts) -> dict[str, Any]:
    return {
        "facts": facts,
        "items": "images",
        "evaluation": facts.evaluation,
        "throughput": throughput(facts, "images"),
        "seconds": facts.seconds,
        "short": _Shortener(facts),
        **class_context(facts.evaluation, facts.output, facts.predictions, MATRIX_CLASSES),
        "abstaining_note": _flagged(facts),
        "overlaps": overlap_notes(facts),
        "notes": data_notes(facts),
        "mistakes": worst_mistakes(facts, _GALLERY),
        "unsure": least_sure(facts, _GALLERY),
        **training_context(facts, (_LOSS, _ACCURACY, _BALANCED), "images", _best_text),
        "samples": augmentation_samples(facts, _SAMPLES, _VARIATIONS),
        "enlarge": facts.image.crop < 128,
        **variants_context(facts, "image"),
        **_data(facts),
        "config": to_dict(facts.config),
        "environment": flat(facts.environment),
    }


def _best_text(best: dict[str, Any]) -> str:
    accuracy, loss = percent(best.get("val_accuracy")), number(best.get("val_loss"))
    balanced = best.get("val_balanced_accuracy")
    of_classes = "" if balanced is None else f", balanced {percent(balanced)}"
    return f"validation accuracy {accuracy}{of_classes}, validation loss {loss}"


def _flagged(facts: RunFacts) -> str:
    """How many images are unlike the training data; empty where distances are not measured."""
    ood = known(facts.evaluation.get("ood"))
    if not ood:
        return ""
    return (
        f"An image whose features lie further than {number(ood.get('max_distance'), 4)} from those of the training "
        f"images is flagged as unlike the training data; that is {percent(ood.get('flagged'))} of the "
        f"{facts.evaluation['split']} images."
    )


def _data(facts: RunFacts) -> dict[str, Any]:
    records = facts.manifest.records
    by_split = {
        split: Counter(name for record in facts.manifest.split(split) for name in facts.manifest.names_of(record))
        for split in SPLITS
    }
    left_out = {one.name: one.files for one in lost_by_class(facts.manifest, facts.rejected)}
    widths, heights = [record.width for record in records], [record.height for record in records]
    return {
        **counts_context(facts.output.labels, by_split, left_out),
        "split_sizes": {split: len(facts.manifest.split(split)) for split in SPLITS},
        "sizes": {
            "smallest": (min(widths), min(heights)),
            "median": (round(statistics.median(widths)), round(statistics.median(heights))),
            "largest": (max(widths), max(heights)),
        },
        "modes": Counter(record.mode for record in records).most_common(),
        "sources": "files",
        "source": "file",
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
