"""Mean and deviation of the training images, for normalisation."""

from collections.abc import Sequence

import numpy as np

from marquee.handlers.inputs.image.decode import prepare
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.tasks.image_classification.data.loading import read_image
from marquee.training.tasks.image_classification.data.manifest import Record

SAMPLE = 2000
"""Images in the sample: the statistics of more differ in the third digit."""


def channel_statistics(records: Sequence[Record], spec: ImageSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, over an even sample of ``records`` as they are served."""
    step = max(1, len(records) // SAMPLE)
    total, squares, pixels = np.zeros(spec.channels), np.zeros(spec.channels), 0
    for record in records[::step]:
        values = prepare(read_image(record, spec), spec).reshape(-1, spec.channels) / 255.0
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
        pixels += len(values)
    mean = total / pixels
    # A constant channel has a deviation of zero; dividing by it would give infinities.
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-4))
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())
