"""The values of the model cards."""

from typing import Any

from marquee.training.core.dataset import SPLITS
from marquee.training.report.class_sections import shown_classes
from marquee.training.report.classes import top_confusions
from marquee.training.report.run_files import known
from marquee.training.tasks.tabular.report.columns import columns_of
from marquee.training.tasks.tabular.report.facts import ClassificationFacts, RegressionFacts
from marquee.training.tasks.tabular.report.page import split_name

_CONFUSIONS, _IMPORTANT, _COLUMNS = 5, 10, 200
_CLASSES, _LABELS = 50, 100


def card_context(facts: RegressionFacts | ClassificationFacts) -> dict[str, Any]:
    """The values of ``regression_card.md`` or ``classification_card.md``."""
    columns = columns_of(facts)
    shared = {
        "facts": facts,
        "evaluation": facts.evaluation,
        "split_name": split_name(facts.evaluation["split"]),
        "target": facts.manifest.target,
        "unit": facts.manifest.unit,
        "columns": columns[:_COLUMNS],
        "all_columns": len(columns),
        "importances": facts.importances,
        "important": facts.importances.columns[:_IMPORTANT] if facts.importances else (),
        "splits": {split: len(facts.manifest.split(split)) for split in SPLITS},
    }
    if isinstance(facts, RegressionFacts):
        return {**shared, "half_width": facts.calibration.half_width, "level": facts.calibration.level}
    evaluation = facts.evaluation
    return {
        **shared,
        "interval": evaluation["accuracy_interval"],
        "classes": shown_classes(evaluation["per_class"], _CLASSES),
        "all_classes": len(evaluation["per_class"]),
        "labels": facts.output.labels[:_LABELS],
        "all_labels": len(facts.output.labels),
        "confusions": top_confusions(evaluation, facts.output.labels, _CONFUSIONS),
        "calibration": known(evaluation.get("calibration")),
        "abstain": known(evaluation.get("abstain")),
    }
