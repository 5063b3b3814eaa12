"""Warnings about images that lose, on their way into the model, what people see in them, and about classes' names."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from marquee.handlers.inputs.image.decode import Examined
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.tasks.classification.names import twins
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

SMALL_PART = 0.25
"""Share of the range of deep samples below which little of their contrast is left in 8 bits."""


def warnings_of(records: Sequence[Record], examined: Sequence[Examined], image: ImageSpec) -> list[str]:
    """One line for each kind of loss; usually none.

    Args:
        records: the images.
        examined: what was seen of each of them.
        image: how they were read.
    """
    return [line for line in (_flattened(records, examined, image), _dark(examined, image)) if line]


def twin_lines(manifest: Manifest) -> list[str]:
    """A line if classes have names that differ only in capitals, accents, width or blanks."""
    found = twins(manifest.labels)
    if not found:
        return []
    counts = Counter(name for record in manifest.records for name in manifest.names_of(record))
    first = " and ".join(f"{name!r} ({counts[name]:,} images)" for name in found[0])
    others = f", and {len(found) - 1} more such pairs" if len(found) > 1 else ""
    return [
        f"warning: the names of two classes differ only in capitals, accents or blanks: {first}{others}; if they "
        "are one class, give their images one name"
    ]


def _flattened(records: Sequence[Record], examined: Sequence[Examined], image: ImageSpec) -> str:
    flat = [record.path for record, seen in zip(records, examined, strict=True) if seen.is_flattened]
    if not flat:
        return ""
    return (
        f"warning: {len(flat)} of {len(records)} images are one flat colour once their transparent parts lie over grey "
        f"level {image.background}; first: {flat[0]}; try another --image.background, such as "
        f"{0 if image.background > 127 else 255} or 128"
    )


def _dark(examined: Sequence[Examined], image: ImageSpec) -> str:
    levels = np.array([seen.levels for seen in examined if seen.levels is not None])
    if image.window is not None or not len(levels):
        return ""
    low, high = np.quantile(levels[:, 0], 0.01), np.quantile(levels[:, 1], 0.99)
    if high - low > SMALL_PART:
        return ""
    return (
        f"warning: {len(levels)} images have more than 8 bits a sample, but their values fill only "
        f"{100 * (high - low):.2g} % of the range, from {100 * low:.2g} % to {100 * high:.2g} % of white, so that the "
        "model sees little contrast; try --image.window auto, or --image.window LOW,HIGH"
    )
