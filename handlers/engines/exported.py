"""The ``exported`` engine: a ``.pt2`` written by torch.export, run by PyTorch itself."""

from pathlib import Path

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from handlers.engines import Engine
from handlers.errors import BundleError
from handlers.spec import ModelSpec, VariantSpec


def load(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """See :func:`handlers.engines.load_engine`."""
    path = Path(folder) / next(iter(variant.files))
    try:
        program = torch.export.load(path)
    except Exception as error:
        # The archive reader raises whatever its zip, JSON and schema layers raise.
        raise BundleError(f"{path}: torch.export cannot load it: {error}") from error
    if device != "cpu":
        # The program was traced on the CPU; its weights and constants move, its code stays as it is.
        program = move_to_device_pass(program, device)
    if device.startswith("cuda") and variant.precision == "fp32":
        # TF32 keeps 10 bits of the mantissa: answers would differ from the golden ones by about 1e-3.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return ExportedEngine(program.module(), device)


class ExportedEngine:
    """Calls the exported module without autograd."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        self._module = module
        self._device = device

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float32 logits (N, labels)."""
        logits = self._module(torch.from_numpy(batch).to(self._device))
        result: np.ndarray = logits.float().cpu().numpy()
        return result
