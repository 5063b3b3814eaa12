"""A class for each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.outputs.classification import (
    LOGITS,
    Classification,
    ClassificationCalibration,
    ClassificationSpec,
)
from marquee.handlers.outputs.outside import OUTSIDE
from marquee.training.core.dataset import groups_of
from marquee.training.core.files import write_csv
from marquee.training.core.task import Fitted, row
from marquee.training.tasks.classification.calibration import (
    abstain_threshold,
    calibration_facts,
    fit_temperature,
    single_label_likelihood,
)
from marquee.training.tasks.classification.evaluation_text import accuracy_lines, class_lines
from marquee.training.tasks.classification.metrics import (
    abstention,
    classification_metrics,
    confidence_metrics,
    loses_most,
)
from marquee.training.tasks.classification.names import prediction_columns
from marquee.training.tasks.tabular.config import TabularClassificationConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest, indices_of
from marquee.training.tasks.tabular.network import TabularNetwork
from marquee.training.tasks.tabular.objective import ClassificationObjective, class_weights
from marquee.training.tasks.tabular.preprocessing import TargetTransform
from marquee.training.tasks.tabular.task import Tabular, features_of

MEANINGS = {
    "rows": "number of evaluated rows",
    "accuracy": "share of the rows that are answered correctly",
    "balanced_accuracy": "mean recall of the classes: every class has the same weight, rare or common",
    "auroc": "how often a row of a class is ranked above one of another; 0.5 is chance",
    "nll": "negative log-likelihood in nats: penalises confident wrong answers; lower is better",
    "brier": "squared error of the probabilities; lower is better",
    "ece": "expected calibration error: difference between probabilities and the share of right answers",
}


class TabularClassification(Tabular[TabularClassificationConfig]):
    """A label with calibrated probabilities, and the features in which the row is unlike the training rows."""

    name = "tabular-classification"
    kind = "classification"
    answer = LOGITS
    meanings = MEANINGS
    tables = ("confusion_matrix", "per_class", "reliability")

    def target_transform(self, config: TabularClassificationConfig, manifest: TableManifest) -> TargetTransform:
        """None: a class has no scale."""
        return TargetTransform()

    def true(self, records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        """Indices of the labels."""
        return indices_of(records, labels)

    def create_objective(
        self, config: TabularClassificationConfig, network: TabularNetwork, targets: torch.Tensor
    ) -> ClassificationObjective:
        """Cross-entropy, with class weights where they are configured."""
        balanced = config.loss.class_weights == "balanced"
        weights = class_weights(targets, network.labels) if balanced else None
        return ClassificationObjective(network, config.loss, config.augment, weights)

    def output(self, config: TabularClassificationConfig, manifest: TableManifest) -> ClassificationSpec:
        """The labels in the order of the logits."""
        return ClassificationSpec(labels=manifest.labels, top_k=config.export.top_k, columns=features_of(manifest.spec))

    def calibrate(
        self, config: TabularClassificationConfig, output: Classification, outputs: Arrays, targets: np.ndarray
    ) -> Fitted:
        """Fits the temperature, and the threshold for abstaining."""
        logits = outputs[LOGITS]
        temperature = fit_temperature(logits, targets, single_label_likelihood) if config.export.calibrate else 1.0
        before, after = (
            confidence_metrics(output.activation(logits / divisor), targets) for divisor in (1.0, temperature)
        )
        min_probability = 0.0
        if config.export.max_error:
            calibrated = output.activation(logits / temperature)
            right = calibrated.argmax(1) == targets
            min_probability = abstain_threshold(calibrated.max(1), right, config.export.max_error)
        calibration = ClassificationCalibration(temperature=temperature, min_probability=min_probability)
        facts = calibration_facts(temperature, len(targets), before, after)
        facts["rows"] = facts.pop("images")
        return Fitted(calibration, facts)

    def note_export(self, config: TabularClassificationConfig, metrics: dict[str, Any]) -> None:
        """The error rate that the threshold was fitted for."""
        if "abstain" in metrics:
            metrics["abstain"]["wanted_error"] = config.export.max_error

    def truth(self, record: Record) -> dict[str, Any]:
        """The label."""
        return {"label": record.target}

    def measure(self, output: Classification, records: Sequence[Record], outputs: Arrays) -> dict[str, Any]:
        """As for images, with ``rows``; and the share of rows that are unlike the training rows."""
        labels = output.spec.labels
        targets = indices_of(records, labels)
        probabilities = output.probabilities(outputs[LOGITS])
        measured = classification_metrics(probabilities, targets, groups_of(records))
        metrics = {"rows": measured.pop("images"), **measured}
        metrics["per_class"] = [
            {"label": label, "rows": values.pop("images"), **values}
            for label, values in zip(labels, metrics["per_class"], strict=True)
        ]
        metrics["uncalibrated"] = confidence_metrics(output.activation(outputs[LOGITS]), targets)
        if (threshold := output.calibration.min_probability) > 0:
            right = self.right(output, outputs, targets)
            metrics["abstain"] = abstention(probabilities.max(axis=1), right, threshold)
        if OUTSIDE in outputs:
            metrics["unfamiliar"] = float(outputs[OUTSIDE].astype(bool).any(axis=1).mean())
        return metrics

    def write_predictions(self, path: Path, output: Classification, records: Sequence[Record], outputs: Arrays) -> None:
        """Writes ``path,label,predicted`` and the probability of each class."""
        probabilities = output.probabilities(outputs[LOGITS])
        labels = output.spec.labels
        rows = (
            [record.path, record.target, labels[int(values.argmax())], *map(repr, values.tolist())]
            for record, values in zip(records, probabilities, strict=True)
        )
        write_csv(path, prediction_columns(labels), rows)

    def right(self, output: Classification, outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """Bool (N,): which answers have the true label."""
        result: np.ndarray = output.decisions(output.probabilities(outputs[LOGITS])) == targets
        return result

    def loses_most(self, output: Classification, targets: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
        """See :func:`marquee.training.tasks.classification.metrics.loses_most`."""
        return loses_most(output.spec.labels, targets, before, after, self.unit)

    def calibration_error(self, output: Classification, outputs: Arrays, targets: np.ndarray) -> float:
        """Expected calibration error (Guo et al., 2017)."""
        return confidence_metrics(output.probabilities(outputs[LOGITS]), targets)["ece"]

    def details(self, metrics: Mapping[str, Any]) -> list[str]:
        """The interval of the accuracy, thresholds, classes and confusions."""
        lines = accuracy_lines(metrics, self.unit)
        if "unfamiliar" in metrics:
            share = f"{metrics['unfamiliar']:.4f}"
            lines.append(row("unfamiliar", share, "share of rows with a value outside of what training saw"))
        return lines + class_lines(metrics, self.unit)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """The metrics of a bundle in one line."""
        return f"{metrics['split']} accuracy {metrics['accuracy']:.4f} on {metrics['rows']} rows"
