"""Evaluation of a bundle through the predictor that serves it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handlers.predictor import Predictor
from training.data.loading import EvaluationImages, evaluation_loader
from training.data.manifest import Record
from training.files import write_atomic
from training.metrics import classification_metrics
from training.progress import Progress

BATCH = 32


def predict_records(predictor: Predictor, records: Sequence[Record], workers: int, progress: Progress) -> np.ndarray:
    """Probabilities of every image, float64 (N, labels), in the order of ``records``.

    Raises:
        DataError: a label is not one of the model's, or a file has changed.
    """
    images = EvaluationImages(records, predictor.spec.labels, predictor.spec.image)
    rows = []
    with progress.task("evaluating", len(records)) as task:
        for pixels, _ in evaluation_loader(images, BATCH, workers):
            rows.append(predictor.probabilities(pixels.numpy()))
            task.advance(count=len(pixels))
    return np.concatenate(rows)


def measure(predictor: Predictor, records: Sequence[Record], probabilities: np.ndarray) -> dict[str, Any]:
    """:func:`training.metrics.classification_metrics` for the records' labels."""
    index = {label: i for i, label in enumerate(predictor.spec.labels)}
    return classification_metrics(probabilities, np.array([index[record.label] for record in records]))


def write_predictions(path: Path, labels: Sequence[str], records: Sequence[Record], probabilities: np.ndarray) -> None:
    """Writes one CSV line an image: ``path,label,predicted`` and the probability of each class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", *labels])
    for record, row in zip(records, probabilities, strict=True):
        writer.writerow([record.path, record.label, labels[int(row.argmax())], *(repr(float(p)) for p in row)])
    write_atomic(path, buffer.getvalue())
