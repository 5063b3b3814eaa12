"""The ``compiled`` engine: a ``.pt2`` that torch.compile turns into machine code when it is loaded.

What it compiles is bound to the machine, so nothing compiled is shipped: a worker pays with its start (a minute for a
ResNet on two cores) and needs a C++ compiler on a CPU, or Triton on a GPU.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from handlers.engines import Engine
from handlers.engines.exported import ExportedEngine, load_module
from handlers.errors import BundleError
from handlers.spec import ModelSpec, VariantSpec


def load(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """See :func:`handlers.engines.load_engine`."""
    module = load_module(variant, folder, device)
    # With CUDA graphs each new batch size would be recorded anew; without, dynamic shapes compile once.
    compiled = torch.compile(module, dynamic=True)
    engine = CompiledEngine(ExportedEngine(module, spec.image, device), compiled, device)
    side, channels = spec.image.crop, spec.image.channels
    try:
        for size in (2, 1):  # one image is a case of its own for the compiler; neither is left to the first request
            engine(np.zeros((size, side, side, channels), np.uint8))
    except Exception as error:
        raise BundleError(f"variant {variant.name!r} cannot be compiled here: {error}") from error
    return engine


class CompiledEngine:
    """Calls the compiled module without autograd."""

    def __init__(self, exported: ExportedEngine, compiled: Callable[[torch.Tensor], torch.Tensor], device: str) -> None:
        self._exported = exported
        self._compiled = compiled
        self._device = device

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float32 logits (N, labels)."""
        logits = self._compiled(torch.from_numpy(batch).to(self._device))
        result: np.ndarray = logits.float().cpu().numpy()
        return result

    def kernels(self) -> dict[str, int]:
        """Those of the program before compiling: the compiler keeps the types of convolutions and products."""
        return self._exported.kernels()
