"""Real images for an imported model, which verify it wherever it is served."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.image_classification.data.manifest import Record
from marquee.training.tasks.image_classification.data.scan import inspect_images, list_images

MAX_IMAGES = 300
"""As many as the calibration of an int8 variant takes; of more images, an even sample is read."""


def find_images(
    folder: Path, labels: Sequence[str], image: ImageSpec, progress: Progress
) -> tuple[list[Record], list[Rejected]]:
    """Lists and decodes up to :data:`MAX_IMAGES` images.

    Args:
        folder: a folder with class folders named after the labels, or with unlabelled files.
        labels: the model's labels.
        image: the preprocessing, which limits the images that are decoded.
        progress: where progress is reported.

    Returns:
        The readable images, in a fixed order, and the files that are left out, with the reasons.

    Raises:
        DataError: the folder is missing, a class folder is not one of the labels, or no image is readable.
    """
    listed = list_images(folder)
    sample = _even_sample([item for item in listed if isinstance(item, Record)])
    rejected = [item for item in listed if isinstance(item, Rejected)]
    if unknown := sorted({record.label for record in sample} - {*labels, ""}):
        raise DataError(
            f"--images {folder}: the folder {unknown[0]!r} is not one of the labels; name class folders as in "
            "--labels, or put the files in --images itself"
        )
    # Decoded at full size, since a record stores the size of the image.
    inspection = inspect_images(sample, replace(image, decode="full"), progress)
    records, rejected = inspection.records, rejected + inspection.rejected
    if not records:
        first = f"; first: {rejected[0].path} ({rejected[0].reason})" if rejected else ""
        raise DataError(f"--images {folder}: no readable image; at least 1 is needed to verify the served model{first}")
    return [replace(record, split="test") for record in records], rejected


def _even_sample(records: list[Record]) -> list[Record]:
    """At most :data:`MAX_IMAGES`, evenly over the list, which is sorted by class."""
    if len(records) <= MAX_IMAGES:
        return records
    return [records[i * len(records) // MAX_IMAGES] for i in range(MAX_IMAGES)]
