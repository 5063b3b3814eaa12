"""The page about a run that predicts a class."""

from collections import Counter
from typing import Any

import numpy as np

from marquee.training.core.dataset import SPLITS
from marquee.training.report.class_sections import class_context, counts_context
from marquee.training.report.text import number, percent
from marquee.training.report.training import Measured, training_context
from marquee.training.tasks.tabular.report.facts import ClassificationFacts
from marquee.training.tasks.tabular.report.page import LOSS, table_context
from marquee.training.tasks.tabular.report.rows import row_table

MATRIX_CLASSES = 40
"""Largest number of classes for which the whole confusion matrix is shown."""
_MISTAKES, _UNSURE = 15, 10
_ACCURACY = Measured(
    name="Accuracy", key="accuracy", show=percent, caption="Accuracy of the validation rows.", share=True
)


def classification_context(facts: ClassificationFacts) -> dict[str, Any]:
    """The values of ``classification.html``."""
    evaluation, predictions = facts.evaluation, facts.predictions
    wrong = np.flatnonzero(~predictions.correct)
    mistakes = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:_MISTAKES]
    unsure = np.argsort(predictions.confidence, kind="stable")[:_UNSURE]
    by_split = {split: Counter(record.target for record in facts.manifest.split(split)) for split in SPLITS}
    labels = facts.output.labels
    return {
        **table_context(facts),
        **class_context(evaluation, facts.output, predictions, MATRIX_CLASSES),
        "abstaining_note": "",
        "predictions": predictions,
        "mistakes": row_table(facts, mistakes.tolist()),
        "unsure": row_table(facts, unsure.tolist()),
        "never_predicted": [label for label in labels if label not in set(predictions.predicted)],
        "most_frequent": most_frequent(by_split["train"], by_split[evaluation["split"]]),
        **training_context(facts, (LOSS, _ACCURACY), "rows", _best_text),
        **counts_context(labels, by_split),
    }


def most_frequent(train: Counter[str], measured: Counter[str]) -> float:
    """The accuracy of always answering the class that most training rows have: what a model must beat."""
    return measured[train.most_common(1)[0][0]] / measured.total()


def _best_text(best: dict[str, Any]) -> str:
    accuracy, loss = percent(best.get("val_accuracy")), number(best.get("val_loss"))
    return f"validation accuracy {accuracy}, validation loss {loss}"
