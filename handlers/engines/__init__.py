"""Engines: what runs a variant's files.

An engine takes a uint8 batch of shape (N, crop, crop, channels) and returns float32 logits of shape (N, labels), with
one column more, the feature distance, where the spec's output has a ``max_distance``;
normalisation is part of the model, so no engine can be fed the wrong mean. To add one: a module here with a
``load(spec, variant, folder, device)`` and a line in :data:`ENGINES`.
"""

import importlib
from pathlib import Path
from typing import Protocol

import numpy as np

from handlers.errors import BundleError
from handlers.spec import ModelSpec, VariantSpec

ENGINES = {"exported": "handlers.engines.exported"}
"""Engine name, as in ``VariantSpec.engine`` -> module. Imported only when a variant asks for it."""


class Engine(Protocol):
    """A loaded model."""

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float32 logits (N, labels)."""


def load_engine(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """Loads ``variant`` from the bundle ``folder`` onto ``device`` (``cpu``, ``cuda:0``, ``mps``, ...).

    Raises:
        BundleError: the engine is unknown, its library is not installed, or the files cannot be loaded.
    """
    if variant.engine not in ENGINES:
        raise BundleError(f"variant {variant.name!r} wants engine {variant.engine!r}; known: {', '.join(ENGINES)}")
    try:
        module = importlib.import_module(ENGINES[variant.engine])
    except ImportError as error:
        raise BundleError(f"variant {variant.name!r} needs a library that is not installed: {error}") from error
    engine: Engine = module.load(spec, variant, folder, device)
    return engine
