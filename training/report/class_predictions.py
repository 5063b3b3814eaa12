"""The answers of a classifier on the measured split, as ``predictions.csv`` has them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from marquee.handlers.core.spec import ModelSpec
from marquee.handlers.outputs.classification import classification_of
from marquee.training.core.errors import TrainingError
from marquee.training.report.run_files import read_rows


@dataclass(frozen=True, kw_only=True)
class ClassPredictions:
    """The bundle's answers on the measured split; item ``i`` of each field belongs to the same record."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    """The truth."""
    predicted: tuple[str, ...]
    confidence: np.ndarray
    """float64 (N,), the answer's probability as served."""
    uncalibrated: np.ndarray
    """float64 (N,), the answer's probability at temperature 1."""

    @cached_property
    def correct(self) -> np.ndarray:
        """Which answers are right, bool (N,)."""
        pairs = zip(self.labels, self.predicted, strict=True)
        return np.fromiter((label == predicted for label, predicted in pairs), dtype=bool, count=len(self.labels))


def read_class_predictions(path: Path, spec: ModelSpec) -> ClassPredictions:
    """Keeps only what the report needs of each line: a thousand probabilities per item would fill the memory.

    Raises:
        TrainingError: the file is missing, or not such a table.
    """
    paths, labels, predicted, confidence, uncalibrated = [], [], [], [], []
    output_spec = classification_of(spec)
    output = output_spec.create(spec.variants[0], None)
    for row in read_rows(path, columns=3 + len(output_spec.labels)):
        try:
            probabilities = np.array(row[3:], dtype=np.float64)
        except ValueError as error:
            raise TrainingError(f"{path}: {row[0]}: a probability is not a number: {error}") from error
        paths.append(row[0])
        labels.append(row[1])
        predicted.append(row[2])
        confidence.append(output.confidence(probabilities))
        uncalibrated.append(output.confidence(output.uncalibrated(probabilities)))
    return ClassPredictions(
        paths=tuple(paths),
        labels=tuple(labels),
        predicted=tuple(predicted),
        confidence=np.array(confidence, dtype=np.float64),
        uncalibrated=np.array(uncalibrated, dtype=np.float64),
    )
