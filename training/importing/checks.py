"""What real images tell about an imported model that its file does not."""

from pathlib import Path
from typing import Literal

import numpy as np

from marquee.handlers.predictor import Predictor
from marquee.training.errors import ExportError, TrainingError

_BATCH = 8
_SUM_SLACK = 1e-3
"""How far the probabilities of an image may be from summing to 1; those of 16-bit models are by 1e-4."""


def check_batches(model: Path, predictor: Predictor, pixels: np.ndarray) -> None:
    """Images get the same answers together as alone.

    Args:
        model: named in the error.
        predictor: of the written model.
        pixels: uint8 (N, crop, crop, channels), at least one.

    Raises:
        ExportError: they do not, or several images at once cannot be answered at all.
    """
    batch = np.concatenate([pixels, pixels])[: max(2, min(_BATCH, len(pixels)))]
    alone = np.concatenate([predictor.probabilities(image[None]) for image in batch])
    try:
        apart = float(np.abs(predictor.probabilities(batch) - alone).max())
    except Exception as error:
        # What an engine raises for a graph that contradicts itself is its own.
        raise ExportError(
            f"{model}: answers one image but not {len(batch)} at once; export it again with a batch of any size"
        ) from error
    if not apart <= predictor.variant.tolerance:
        raise ExportError(
            f"{model}: {len(batch)} images at once get other probabilities than alone, by {apart:.2g}; export it again "
            "with a batch of any size, in inference mode"
        )


def check_output(
    model: Path, predictor: Predictor, pixels: np.ndarray, output: Literal["logits", "probabilities"]
) -> None:
    """The model gives what ``output`` says.

    Args:
        model: named in the error.
        predictor: of the written model, which gives logits, or logarithms of probabilities.
        pixels: uint8 (N, crop, crop, channels), at least one.
        output: what the original gives.

    Raises:
        TrainingError: it does not.
    """
    logits = predictor.outputs(pixels).logits
    if output == "probabilities":
        sums = np.exp(logits).sum(axis=1)
        if (np.abs(sums - 1) > _SUM_SLACK).any():
            raise TrainingError(
                f"{model}: its outputs are no probabilities, they sum to {sums[np.abs(sums - 1).argmax()]:.4g}; say "
                "--output logits when they are logits; several labels an image cannot be imported"
            )
    elif (logits >= 0).all() and (np.abs(logits.sum(axis=1) - 1) <= _SUM_SLACK).all():
        raise TrainingError(f"{model}: its outputs sum to 1, they are probabilities; say --output probabilities")
