"""The model card of an image classifier."""

from pathlib import Path
from typing import Any

from marquee.training.core.dataset import SPLITS
from marquee.training.core.run_folder import RunFolder
from marquee.training.report.card import write_card
from marquee.training.report.class_sections import shown_classes
from marquee.training.report.classes import top_confusions
from marquee.training.report.run_files import known
from marquee.training.report.text import environment
from marquee.training.tasks.image_classification.report.facts import RunFacts, read_facts
from marquee.training.tasks.image_classification.report.notes import data_notes, overlap_notes

_CONFUSIONS, _CLASSES, _LABELS = 5, 50, 100


def write_model_card(run: Path) -> Path:
    """Writes ``RUN/MODEL_CARD.md`` from the run's own facts; the owner's texts in an earlier one are kept.

    Returns:
        The path of the card.

    Raises:
        TrainingError: the folder is not a finished run, or an earlier card cannot be read.
    """
    facts = read_facts(run)
    path = RunFolder(facts.folder).model_card
    write_card(path, environment(__package__, html=False).get_template("model_card.md"), _context(facts))
    return path


def _context(facts: RunFacts) -> dict[str, Any]:
    return {
        "facts": facts,
        "evaluation": facts.evaluation,
        "interval": facts.evaluation["accuracy_interval"],
        "classes": shown_classes(facts.evaluation["per_class"], _CLASSES),
        "all_classes": len(facts.evaluation["per_class"]),
        "labels": facts.output.labels[:_LABELS],
        "all_labels": len(facts.output.labels),
        "overlaps": overlap_notes(facts),
        "notes": data_notes(facts),
        "confusions": top_confusions(facts.evaluation, facts.output.labels, _CONFUSIONS),
        "splits": {split: len(facts.manifest.split(split)) for split in SPLITS},
        "calibration": known(facts.evaluation.get("calibration")),
        "abstain": known(facts.evaluation.get("abstain")),
        "ood": known(facts.evaluation.get("ood")),
        "modes": sorted({record.mode for record in facts.manifest.records}),
    }
