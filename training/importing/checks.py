"""Checks of an imported model on real images, for properties that its file does not state."""

from pathlib import Path
from typing import Literal

import numpy as np

from marquee.handlers.core.arrays import concatenate
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.spec import PIXELS
from marquee.handlers.outputs.classification import LOGITS
from marquee.training.core.errors import ExportError, TrainingError

_BATCH = 8
_SUM_SLACK = 1e-3
"""Largest deviation from 1 of the sum of an image's probabilities; that of 16-bit models is about 1e-4."""


def check_batches(model: Path, predictor: Predictor, pixels: np.ndarray) -> None:
    """Checks that images in a batch get the same outputs as single images.

    Args:
        model: path of the model, for error messages.
        predictor: predictor of the written model.
        pixels: uint8 (N, crop, crop, channels), at least one.

    Raises:
        ExportError: the outputs differ, or the model fails on a batch.
    """
    batch = np.concatenate([pixels, pixels])[: max(2, min(_BATCH, len(pixels)))]
    single = concatenate([predictor.outputs({PIXELS: image[None]}) for image in batch])
    try:
        difference = float(predictor.output.differences(predictor.outputs({PIXELS: batch}), single).max())
    except Exception as error:
        # Each engine raises its own exceptions for an inconsistent graph.
        raise ExportError(
            f"{model}: works for one image, not for a batch of {len(batch)}; export it again with a dynamic batch size"
        ) from error
    if not difference <= predictor.variant.tolerance:
        raise ExportError(
            f"{model}: probabilities in a batch of {len(batch)} differ by {difference:.2g} from those of single "
            "images; export it again with a dynamic batch size, in inference mode"
        )


def check_output(
    model: Path, predictor: Predictor, pixels: np.ndarray, output: Literal["logits", "probabilities"]
) -> None:
    """Checks that the model's outputs are of the kind that ``output`` says.

    Args:
        model: path of the model, for error messages.
        predictor: predictor of the written model, which outputs logits, or logarithms of probabilities.
        pixels: uint8 (N, crop, crop, channels), at least one.
        output: what the original model outputs.

    Raises:
        TrainingError: they are not.
    """
    logits = predictor.outputs({PIXELS: pixels})[LOGITS]
    if output == "probabilities":
        sums = np.exp(logits).sum(axis=1)
        if (np.abs(sums - 1) > _SUM_SLACK).any():
            raise TrainingError(
                f"{model}: its outputs are not probabilities: they sum to {sums[np.abs(sums - 1).argmax()]:.4g}; use "
                "--output logits if they are logits; multi-label models cannot be imported"
            )
    elif (logits >= 0).all() and (np.abs(logits.sum(axis=1) - 1) <= _SUM_SLACK).all():
        raise TrainingError(f"{model}: its outputs sum to 1, so they are probabilities; use --output probabilities")
