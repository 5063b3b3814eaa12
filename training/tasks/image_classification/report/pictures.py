"""Images of the report, as the model receives them, as small ``data:`` URIs."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from marquee.training.core.errors import DataError
from marquee.training.tasks.image_classification.data.augment import Augmentation
from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TrainingImages
from marquee.training.tasks.image_classification.data.manifest import Record
from marquee.training.tasks.image_classification.report.facts import RunFacts

_LOSSLESS_SIDE = 64
"""Pixels of side up to which an image is stored without loss: it is shown enlarged, and artefacts would be visible."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a gallery."""

    uri: str | None
    """``data:image/webp``, or None when the file cannot be read any more."""
    record: Record
    predicted: str = ""
    confidence: float = 0.0

    @property
    def correct(self) -> bool:
        """True for an image whose answer is right."""
        return self.predicted == self.record.label


@dataclass(frozen=True, kw_only=True)
class Variations:
    """One training image as served and as augmented in the first epochs."""

    record: Record
    original: str
    drawn: tuple[str, ...]


def worst_mistakes(facts: RunFacts, limit: int) -> list[Picture]:
    """The wrong answers with the highest confidence, in descending order."""
    wrong = np.flatnonzero(~facts.predictions.correct)
    return _gallery(facts, wrong[np.argsort(-facts.predictions.confidence[wrong], kind="stable")][:limit])


def least_sure(facts: RunFacts, limit: int) -> list[Picture]:
    """The answers with the lowest confidence, right or wrong, in ascending order."""
    return _gallery(facts, np.argsort(facts.predictions.confidence, kind="stable")[:limit])


def augmentation_samples(facts: RunFacts, images: int, variations: int) -> list[Variations]:
    """Training images of different classes, each as augmented in the first epochs; missing files are left out."""
    records, image = facts.manifest.split("train"), facts.image
    augment = Augmentation(facts.config.augment, image, image.mean)
    varied = TrainingImages(
        records,
        facts.task.encoder(facts.output.labels),
        image,
        augment,
        facts.config.loop.seed,
        short_side=augment.short_side,
    )
    samples = []
    for index in _one_of_each_class(records, images):
        if (original := _served_view(facts, records[index])) is not None:
            drawn = tuple(data_uri(varied[epoch, index][0].numpy()) for epoch in range(variations))
            samples.append(Variations(record=records[index], original=original, drawn=drawn))
    return samples


def _one_of_each_class(records: Sequence[Record], limit: int) -> list[int]:
    first: dict[str, int] = {}
    for index, record in enumerate(records):
        first.setdefault(record.label, index)
    indices = list(first.values())
    return [indices[i * len(indices) // min(limit, len(indices))] for i in range(min(limit, len(indices)))]


def _gallery(facts: RunFacts, chosen: np.ndarray) -> list[Picture]:
    predictions = facts.predictions
    records = {(record.path, record.label): record for record in facts.measured}
    pictures = []
    for i in chosen.tolist():
        path, label = predictions.paths[i], predictions.labels[i]
        record = records.get((path, label), Record(path, label, facts.evaluation["split"]))
        pictures.append(
            Picture(
                uri=_served_view(facts, record),
                record=record,
                predicted=predictions.predicted[i],
                confidence=float(predictions.confidence[i]),
            )
        )
    return pictures


def _served_view(facts: RunFacts, record: Record) -> str | None:
    """The pixels that the model receives; None if the file is missing or has changed."""
    try:
        images = EvaluationImages([record], facts.task.encoder(facts.output.labels), facts.image)
        return data_uri(images[0][0].numpy())
    except DataError:
        return None


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 1 or 3) -> ``data:image/webp;base64,...``, without loss for small images."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=max(pixels.shape) <= _LOSSLESS_SIDE, quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
