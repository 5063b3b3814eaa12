"""The common form of all importable models before they are written into a bundle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import Precision
from marquee.handlers.inputs.image.spec import ImageSpec


def nothing_to_compare(predictor: Predictor, pixels: np.ndarray) -> dict[str, Any]:
    """Comparison for a model whose original form cannot be run here; returns no facts."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ReadyModel:
    """A model that takes the served pixels and outputs logits."""

    image: ImageSpec
    """The preprocessing."""
    engine: str
    """A name known to :mod:`marquee.handlers.core.engines`."""
    device: Literal["any", "cpu"]
    """The device that the engine runs the model on."""
    precision: Precision = "fp32"
    """Precision of the computation; ``int8`` for a model that is already quantized."""
    write: Callable[[Path], list[str]]
    """Writes the files into a folder; returns their names, starting with the one that the engine opens."""
    compare: Callable[[Predictor, np.ndarray], dict[str, Any]] = nothing_to_compare
    """Compares the written model with the original on uint8 (N, crop, crop, channels); returns facts for the bundle.
    Raises ExportError if they differ."""
    normalised: Callable[[Sequence[float], Sequence[float]], Callable[[np.ndarray], np.ndarray]]
    """(mean, std) for white = 1 -> the model with this normalisation in place of its own: uint8 (N, crop, crop,
    channels) to logits."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Facts about the model's origin, for the bundle's provenance."""
