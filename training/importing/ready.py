"""What every kind of file comes down to before it is written into a bundle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marquee.handlers.predictor import Predictor
from marquee.handlers.spec import ImageSpec, Precision


def nothing_to_compare(predictor: Predictor, pixels: np.ndarray) -> dict[str, Any]:
    """For a model whose original form cannot be run here."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ReadyModel:
    """A model that takes the served pixels and gives logits."""

    image: ImageSpec
    """The preprocessing."""
    engine: str
    """A name known to :mod:`marquee.handlers.engines`."""
    device: Literal["any", "cpu"]
    """Where that engine runs it."""
    precision: Precision = "fp32"
    """What it computes in; ``int8`` for a model that came quantized."""
    write: Callable[[Path], list[str]]
    """Writes the files into a folder; returns their names, first the one that the engine opens."""
    compare: Callable[[Predictor, np.ndarray], dict[str, Any]] = nothing_to_compare
    """Compares the written model with the original on uint8 (N, crop, crop, channels); returns facts for the bundle.
    Raises ExportError when they differ."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Where the model comes from."""
