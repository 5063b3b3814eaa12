"""Logits -> any number of labels, each a decision of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from .classification import Classification, ClassificationCalibration, ClassificationSpec

if TYPE_CHECKING:
    from ..core.spec import VariantSpec


@dataclass(frozen=True, kw_only=True)
class MultiLabelSpec(ClassificationSpec):
    """How logits become an answer."""

    may_be_several: ClassVar[bool] = True

    kind: Literal["multi-label-classification"] = "multi-label-classification"
    threshold: float = 0.5
    """A label with at least this probability is one of the item's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: expected a number between 0 and 1, got {self.threshold}")

    def create(self, variant: "VariantSpec", folder: Path | None) -> "MultiLabelClassification":
        """See :class:`marquee.handlers.core.output.OutputSpec`."""
        return MultiLabelClassification(self, variant, folder)


class MultiLabelClassification(Classification):
    """The sigmoid of each logit, and a threshold."""

    spec: MultiLabelSpec

    @staticmethod
    def activation(logits: np.ndarray) -> np.ndarray:
        """float64 (N, labels) -> float64 probabilities (N, labels)."""
        return sigmoid(logits)

    def decisions(self, probabilities: np.ndarray) -> np.ndarray:
        """float64 (N, labels) -> what is answered: bool (N, labels)."""
        result: np.ndarray = probabilities >= self.spec.threshold
        return result

    def confidence(self, probabilities: np.ndarray) -> float:
        """float64 (labels,) -> probability that all labels are as they are said to be."""
        return float(np.where(probabilities >= self.spec.threshold, probabilities, 1 - probabilities).prod())

    def uncalibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """float64 (labels,) -> what they would be at temperature 1: the same for each label's yes and no."""
        temperature = self.calibration.temperature
        if temperature == 1:
            return probabilities
        odds = (probabilities / np.maximum(1 - probabilities, 1e-300)) ** temperature
        return np.asarray(odds / (1 + odds))

    def names(self, probabilities: np.ndarray, order: np.ndarray) -> tuple[str, ...]:
        """The labels of one item, the likeliest first."""
        return tuple(self.spec.labels[i] for i in order if probabilities[i] >= self.spec.threshold)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), in float64."""
    result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))  # the textbook form overflows
    return result


SPEC, CALIBRATION = MultiLabelSpec, ClassificationCalibration
