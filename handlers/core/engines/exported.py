"""The ``exported`` engine: a ``.pt2`` written by torch.export, run by PyTorch itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils._python_dispatch import TorchDispatchMode

from ..arrays import Arrays
from ..bundle import Bundle
from ..errors import BundleError
from ..input import InputSpec
from ..precision import NAMES, widened
from ..spec import VariantSpec
from . import Engine
from .pt2_archive import check_pt2

_HEAVY = ("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm")


def load(bundle: Bundle, variant: VariantSpec, device: str) -> Engine:
    """See :func:`marquee.handlers.core.engines.load_engine`."""
    return ExportedEngine(load_module(bundle, variant, device), bundle.spec.input, device, variant.outputs)


def load_module(bundle: Bundle, variant: VariantSpec, device: str) -> torch.nn.Module:
    """The program of ``variant`` on ``device``.

    Raises:
        BundleError: torch cannot load it, or it holds more than a program.
    """
    program = load_program(bundle.program(variant))
    if device != "cpu":
        # The program was traced on the CPU; its weights and constants move, its code stays as it is.
        program = move_to_device_pass(program, device)
    if device.startswith("cuda") and variant.precision == "fp32":
        # TF32 keeps 10 bits of the mantissa: answers would differ from the golden ones by about 1e-3.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    module = program.module()
    # Its hook checks each call against the example's shapes, which Input.check has done: 0.1 ms of Python a call.
    module._forward_pre_hooks.clear()
    return module


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Reads a ``.pt2``, after a look into it: torch would run what is pickled there.

    Raises:
        BundleError: torch cannot load it, or it holds more than a program.
    """
    check_pt2(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        # The archive reader raises whatever its zip, JSON and schema layers raise.
        raise BundleError(f"{path}: torch.export cannot load it: {error}") from error


class ExportedEngine:
    """Calls the exported module without autograd.

    Args:
        module: the tensors of the input, in their order -> one tensor, or a tuple of them.
        example: what it takes.
        device: where the module is.
        outputs: names of the tensors.
        compiled: the module as machine code, which is then called in its place.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        example: InputSpec,
        device: str,
        outputs: Sequence[str],
        compiled: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        self._module = module
        # Not `compiled or module`: the truth value of a compiled module is that of its length, and it may have none.
        self._call = module if compiled is None else compiled
        self._example = example
        self._device = device
        self._outputs = outputs

    @torch.inference_mode()
    def __call__(self, inputs: Arrays) -> Arrays:
        """See :class:`marquee.handlers.core.engines.Engine`."""
        result = self._call(*(self._on_device(torch.from_numpy(values)) for values in inputs.values()))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        return {name: widened(tensor).cpu().numpy() for name, tensor in zip(self._outputs, tensors, strict=False)}

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.startswith("cuda"):
            # Out of pinned memory the GPU fetches the batch itself, while this thread already queues the kernels.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    @torch.inference_mode()
    def kernels(self) -> dict[str, int]:
        """See :class:`marquee.handlers.core.engines.Engine`: what PyTorch is asked for while one item goes through.

        Of the module itself: the compiler keeps the types of convolutions and products.
        """
        example = [torch.from_numpy(values).to(self._device) for values in self._example.example(1).values()]
        with _CountedKernels() as kernels:
            self._module(*example)
        return dict(kernels.counts)


class _CountedKernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions and matrix products by the type of their inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in _HEAVY:
            kind = next(argument.dtype for argument in reversed(args) if isinstance(argument, torch.Tensor))
            self.counts[NAMES.get(kind, str(kind))] += 1
        return func(*args, **(kwargs or {}))
