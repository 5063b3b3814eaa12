"""Classification of images that may have several labels, or none: the differences from one label per image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from marquee.handlers.outputs.classification import Classification
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec
from marquee.training.tasks.classification.calibration import multi_label_likelihood
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.loading import MultiHotEncoder
from marquee.training.tasks.image_classification.data.manifest import SEPARATOR, Manifest, Record, several_names
from marquee.training.tasks.image_classification.losses import MultiLabelCrossEntropy, label_weights
from marquee.training.tasks.image_classification.multi_label_metrics import (
    multi_label_confidence_metrics,
    multi_label_metrics,
)
from marquee.training.tasks.image_classification.objective import MultiLabelObjective
from marquee.training.tasks.image_classification.task import ImageClassification


class MultiLabelClassification(ImageClassification):
    """Each label is an independent decision."""

    name = "multi-label-classification"
    encoder = MultiHotEncoder
    objective_class = MultiLabelObjective
    labels_of_an_image = "some"
    right_means = "all of whose labels are right"

    @staticmethod
    def names_of(record: Record) -> tuple[str, ...]:
        """The class names in a record's label."""
        return several_names(record)

    def likelihood(self, logits: np.ndarray, targets: np.ndarray, doubt: float) -> float:
        """See :func:`marquee.training.tasks.classification.calibration.fit_temperature`."""
        return multi_label_likelihood(logits, targets, doubt)

    def logits(self, config: ImageRunConfig, labels: Sequence[str]) -> int:
        """One for each label."""
        return len(labels)

    def create_loss(self, config: ImageRunConfig, manifest: Manifest | None = None) -> nn.Module:
        """Binary cross-entropy of each label."""
        if manifest is None or config.loop.balance != "weights":
            return MultiLabelCrossEntropy(config.loss.label_smoothing)
        weights = label_weights(self.train_counts(manifest), len(manifest.split("train")))
        return MultiLabelCrossEntropy(config.loss.label_smoothing, weights)

    def output(self, config: ImageRunConfig, manifest: Manifest) -> MultiLabelSpec:
        """The labels in the order of the logits."""
        return MultiLabelSpec(labels=manifest.labels, top_k=config.export.top_k)

    def feature_set(self, record: Record) -> str:
        """One set for all images: there may be many combinations of labels, most of them rare."""
        return ""

    def metrics(
        self, output: Classification, probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str]
    ) -> dict[str, Any]:
        """The metrics of whole images, and of each label."""
        if not isinstance(output.spec, MultiLabelSpec):
            raise TypeError(f"expected an output of several labels, got {output.spec.kind!r}")
        return multi_label_metrics(probabilities, targets, output.spec.threshold, groups)

    def confidence_metrics(self, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """``nll`` and ``ece`` of the individual decisions."""
        return multi_label_confidence_metrics(probabilities, targets)

    def shown(self, names: Sequence[str]) -> str:
        """Labels as text, in the format of a data set's table."""
        return SEPARATOR.join(sorted(names))
