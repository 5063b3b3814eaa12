"""The window of deep samples: the part of their range that the training images fill."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.image.decode import stored_samples
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import DataError
from marquee.training.tasks.image_classification.config import ImageConfig, ImageRunConfig, window_of
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

SAMPLE = 2000
"""Images in the sample, as for the statistics of normalisation."""
_VALUES = 4096
"""Values of each image in the sample, evenly spaced."""
_QUANTILES = (0.001, 0.999)
"""A few defective pixels do not widen the window."""
_ANY_WINDOW = (-3e38, 3e38)
"""Lets files be read whose white only a window defines, before it is known."""


def reading_of(image: ImageConfig) -> ImageSpec:
    """How files are read with these settings, before the channels and the size of the model are known."""
    window = None if image.window == "none" else _ANY_WINDOW if image.window == "auto" else window_of(image.window)
    return ImageSpec(
        channels=3,
        resize=8,
        crop=8,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        max_pixels=image.max_pixels,
        background=image.background,
        reading=image.reading,
        window=window,
        profile=image.profile,
    )


def resolve_window(config: ImageRunConfig, manifest: Manifest) -> ImageRunConfig:
    """The configuration with the window of the training images in place of ``auto``; ``none`` if none is deep.

    Raises:
        DataError: an image has changed since the manifest was made.
    """
    if config.image.window != "auto":
        return config
    found = window_of_images(manifest.split("train"), reading_of(config.image))
    text = "none" if found is None else f"{found[0]:.9g},{found[1]:.9g}"
    return replace(config, image=replace(config.image, window=text))


def window_of_images(records: Sequence[Record], image: ImageSpec) -> tuple[float, float] | None:
    """Nearly the smallest and the largest sample of an even sample of images; None if none has more than 8 bits."""
    step = max(1, len(records) // SAMPLE)
    values = [sample for record in records[::step] if len(sample := _values(record, image))]
    if not values:
        return None
    low, high = np.quantile(np.concatenate(values), _QUANTILES)
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1)


def _values(record: Record, image: ImageSpec) -> np.ndarray:
    """Some finite values of one image; none of one whose samples have 8 bits."""
    try:
        samples = stored_samples(Path(record.path).read_bytes(), image)
    except (InputError, OSError) as error:
        raise DataError(f"{record.path}: was readable when the manifest was made, but no longer is: {error}") from error
    if samples is None:
        return np.empty(0)
    flat = samples.values.reshape(-1)
    chosen = flat[:: max(1, len(flat) // _VALUES)].astype(np.float64)
    return chosen[np.isfinite(chosen)]
