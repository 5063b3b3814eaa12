"""Real images for a model that comes from elsewhere: what proves it wherever it is served."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from marquee.handlers.spec import ImageSpec
from marquee.training.data.manifest import Record, Rejected
from marquee.training.data.scan import inspect_images, list_images
from marquee.training.errors import DataError
from marquee.training.progress import Progress

MAX_IMAGES = 300
"""As many as calibrating an int8 variant takes; of more, an even sample is read."""


def find_images(
    folder: Path, labels: Sequence[str], image: ImageSpec, progress: Progress
) -> tuple[list[Record], list[Rejected]]:
    """Lists and decodes up to :data:`MAX_IMAGES` images.

    Args:
        folder: class folders named as the labels, or files whose class is not known.
        labels: of the model.
        image: limits of what is decoded.
        progress: told about it.

    Returns:
        The readable images, in a fixed order, and the files that are left out with the reason.

    Raises:
        DataError: the folder is missing, a class folder is none of the labels, or no image is readable.
    """
    listed = list_images(folder)
    found = _spread([item for item in listed if isinstance(item, Record)])
    rejected = [item for item in listed if isinstance(item, Rejected)]
    if strange := sorted({record.label for record in found} - {*labels, ""}):
        raise DataError(
            f"--images {folder}: the folder {strange[0]!r} is none of the labels; name class folders as in --labels, "
            "or put the files in --images itself"
        )
    # A record keeps the size of the file, so the file is decoded whole.
    records, unreadable = inspect_images(found, replace(image, decode="full"), progress)
    rejected += unreadable
    if not records:
        first = f"; first: {rejected[0].path} ({rejected[0].reason})" if rejected else ""
        raise DataError(f"--images {folder}: no readable image; at least 1 is needed to prove what is served{first}")
    return [replace(record, split="test") for record in records], rejected


def _spread(records: list[Record]) -> list[Record]:
    """At most :data:`MAX_IMAGES`, evenly over the list, which is sorted by class."""
    if len(records) <= MAX_IMAGES:
        return records
    return [records[i * len(records) // MAX_IMAGES] for i in range(MAX_IMAGES)]
