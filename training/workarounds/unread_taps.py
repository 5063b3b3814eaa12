"""Sets the gradient of kernel taps that only ever read padding to zero instead of uninitialised memory.

On a very small feature map, some taps lie on the padding at every position of the kernel, such as the outer taps of a
3x3 kernel with stride 2 on a 1x1 map. The gradient of these taps is zero, but oneDNN's half-precision convolutions do
not write it (seen with torch 2.14.1, oneDNN's AVX512-BF16 kernels), so weights become NaN or equal runs differ.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

SEEN_WITH = {"torch": "2.14"}
"""Without this workaround, tests/unit/test_unread_taps.py fails on a CPU with bf16 instructions."""


class UnreadTaps:
    """The kernel taps of a network that only read padding.

    Covers only parameters that a convolution uses directly as weights. The gradient of a weight that is computed from a
    parameter, as in weight standardisation, is spread over that parameter before it can be corrected.

    Args:
        model: the model that is trained, on a CPU; takes uint8 (N, side, side, channels).
        channels: number of channels of the images.
    """

    def __init__(self, model: nn.Module, channels: int) -> None:
        self._model, self._channels = model, channels
        self._masks: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def clear(self, side: int) -> None:
        """Sets the gradients of these taps to zero after a backward pass with images of ``side`` pixels."""
        if side not in self._masks:
            self._masks[side] = self._find(side)
        for weight, unread in self._masks[side]:
            if weight.grad is not None:
                weight.grad.masked_fill_(unread, 0)

    def _find(self, side: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        masks: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, calls in _convolutions(self._model, side, self._channels).items():
            unread = torch.stack([unread_taps(*call) for call in calls]).all(0)
            if unread.any():
                masks.append((self._model.get_parameter(name), unread))
        return masks


# Kernel size, stride, padding, dilation and the map's size, each (height, width).
Call = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the arguments of convolutions; padding that a module adds before the call counts as part of the map."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names
        self.calls: dict[str, list[Call]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            image, weight, _, stride, padding, dilation, transposed = args[:7]
            name = self._names.get(weight.data_ptr())
            if name is not None and weight.ndim == 4 and not transposed:
                self.calls[name].append((weight.shape[2:], stride, padding, dilation, image.shape[2:]))
        return func(*args, **(kwargs or {}))


def _convolutions(model: nn.Module, side: int, channels: int) -> dict[str, list[Call]]:
    """Runs a copy of the network; returns weight name -> arguments of each convolution that uses it."""
    probe = copy.deepcopy(model).eval()
    recorder = _Recorder({parameter.data_ptr(): name for name, parameter in probe.named_parameters()})
    # Not inference mode, in which the operator is dispatched as `conv2d`, with arguments of several forms.
    with torch.no_grad(), recorder:
        probe(torch.zeros(1, side, side, channels, dtype=torch.uint8))
    return recorder.calls


def unread_taps(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> torch.Tensor:
    """Finds the taps that only read padding; all arguments are (height, width), ``size`` is that of the map.

    Returns:
        True for these taps, bool tensor of shape ``kernel``.
    """
    rows, columns = (_read(kernel[axis], stride[axis], padding[axis], dilation[axis], size[axis]) for axis in (0, 1))
    return ~(rows[:, None] & columns[None, :])


def _read(kernel: int, stride: int, padding: int, dilation: int, size: int) -> torch.Tensor:
    """Whether each tap of one axis lies on the map at any position of the kernel, bool (kernel,)."""
    positions = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    read = torch.zeros(kernel, dtype=torch.bool)
    for position, tap in product(range(positions), range(kernel)):
        read[tap] |= 0 <= position * stride - padding + tap * dilation < size
    return read
