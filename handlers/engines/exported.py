"""The ``exported`` engine: a ``.pt2`` written by torch.export, run by PyTorch itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass
from torch.utils._python_dispatch import TorchDispatchMode

from ..engines import Engine
from ..errors import BundleError
from ..spec import ImageSpec, ModelSpec, VariantSpec

_HEAVY = ("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm")
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int8: "int8"}


def load(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """See :func:`marquee.handlers.engines.load_engine`."""
    return ExportedEngine(load_module(variant, folder, device), spec.image, device, variant.outputs)


def load_module(variant: VariantSpec, folder: Path, device: str) -> torch.nn.Module:
    """The program of ``variant`` on ``device``.

    Raises:
        BundleError: torch cannot load it.
    """
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
    return program.module()


class ExportedEngine:
    """Calls the exported module without autograd.

    Args:
        module: uint8 (N, crop, crop, channels) -> one tensor, or a tuple of them.
        image: sizes.
        device: where the module is.
        outputs: names of the tensors.
        compiled: the module as machine code, which is then called in its place.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        image: ImageSpec,
        device: str,
        outputs: Sequence[str],
        compiled: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        self._module = module
        self._call = compiled or module
        self._image = image
        self._device = device
        self._outputs = outputs

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (N, crop, crop, channels) -> float32 arrays by name."""
        pixels = torch.from_numpy(batch)
        if self._device.startswith("cuda"):
            # Out of pinned memory the GPU fetches the batch itself, while this thread already queues the kernels.
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        else:
            pixels = pixels.to(self._device)
        found = self._call(pixels)
        tensors = found if isinstance(found, (tuple, list)) else (found,)
        return {name: tensor.float().cpu().numpy() for name, tensor in zip(self._outputs, tensors, strict=False)}

    @torch.inference_mode()
    def kernels(self) -> dict[str, int]:
        """See :class:`marquee.handlers.engines.Engine`: what PyTorch is asked for, read while one image goes through.

        Of the module itself: the compiler keeps the types of convolutions and products.
        """
        side, channels = self._image.crop, self._image.channels
        with _CountedKernels() as counted:
            self._module(torch.zeros(1, side, side, channels, dtype=torch.uint8, device=self._device))
        return dict(counted.found)


class _CountedKernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions and matrix products by the type of their inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in _HEAVY:
            kind = next(argument.dtype for argument in reversed(args) if isinstance(argument, torch.Tensor))
            self.found[_NAMES.get(kind, str(kind))] += 1
        return func(*args, **(kwargs or {}))
