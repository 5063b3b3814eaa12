"""The ``compiled`` engine: a ``.pt2`` that torch.compile turns into machine code when it is loaded.

What it compiles is bound to the machine, so nothing compiled is shipped: a worker pays with its start (a minute for a
ResNet on two cores) and needs a C++ compiler on a CPU, or Triton on a GPU.
"""

from pathlib import Path

import numpy as np
import torch

from ..engines import Engine
from ..engines.exported import ExportedEngine, load_module
from ..errors import BundleError
from ..spec import ModelSpec, VariantSpec


def load(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """See :func:`marquee.handlers.engines.load_engine`."""
    module = load_module(variant, folder, device)
    # With CUDA graphs each new batch size would be recorded anew; without, dynamic shapes compile once.
    compiled = torch.compile(module, dynamic=True)
    engine = ExportedEngine(module, spec.image, device, variant.outputs, compiled)
    side, channels = spec.image.crop, spec.image.channels
    try:
        for size in (2, 1):  # one image is a case of its own for the compiler; neither is left to the first request
            engine(np.zeros((size, side, side, channels), np.uint8))
    except Exception as error:
        raise BundleError(f"variant {variant.name!r} cannot be compiled here: {error}") from error
    return engine
