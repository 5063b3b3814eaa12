"""A workaround: taps of a kernel that see nothing but padding get a gradient of zero, not of whatever was in memory.

Where a feature map is so small that a tap lies on the padding wherever the kernel stands, such as the outer ones of 3x3
at stride 2 on a map of 1x1, that tap's gradient is zero. oneDNN's half-precision convolutions do not write it at all
(seen with torch 2.14.1, oneDNN's AVX512-BF16 kernels): the weights become NaN, or two equal runs differ.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from marquee.training.models import Classifier


class UnreadTaps:
    """The taps of a network that no image reaches.

    Only those of weights that a convolution uses as they are: the gradient of one that is computed from a parameter,
    as in weight standardisation, is spread over that parameter before anyone sees it.

    Args:
        model: what is trained, on a CPU.
    """

    def __init__(self, model: Classifier) -> None:
        self._model = model
        self._found: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def clear(self, side: int) -> None:
        """Sets their gradients to zero, after a backward pass of images of ``side`` pixels."""
        if side not in self._found:
            self._found[side] = self._find(side)
        for weight, unread in self._found[side]:
            if weight.grad is not None:
                weight.grad.masked_fill_(unread, 0)

    def _find(self, side: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for name, calls in _convolutions(self._model, side).items():
            unread = torch.stack([unread_taps(*call) for call in calls]).all(0)
            if unread.any():
                found.append((self._model.get_parameter(name), unread))
        return found


# Kernel size, stride, padding, dilation and the map's size, each (height, width).
Call = tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], Sequence[int]]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what convolutions are given: the pads that a module adds by itself before it calls one are its map."""

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


def _convolutions(model: Classifier, side: int) -> dict[str, list[Call]]:
    """Weight -> what convolutions use it with, each time; a copy of the network runs."""
    probe = copy.deepcopy(model).eval()
    recorder = _Recorder({parameter.data_ptr(): name for name, parameter in probe.named_parameters()})
    # In inference mode the operator arrives as `conv2d`, with arguments of many forms.
    with torch.no_grad(), recorder:
        probe(torch.zeros(1, side, side, model.mean.numel(), dtype=torch.uint8))
    return recorder.calls


def unread_taps(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> torch.Tensor:
    """Which taps only see padding; all arguments are (height, width), ``size`` the map's.

    Returns:
        Of shape ``kernel``, bool.
    """
    rows, columns = (_read(kernel[axis], stride[axis], padding[axis], dilation[axis], size[axis]) for axis in (0, 1))
    return ~(rows[:, None] & columns[None, :])


def _read(kernel: int, stride: int, padding: int, dilation: int, size: int) -> torch.Tensor:
    """Of shape (kernel,), whether any position of the kernel puts the tap on the map."""
    positions = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    read = torch.zeros(kernel, dtype=torch.bool)
    for position, tap in product(range(positions), range(kernel)):
        read[tap] |= 0 <= position * stride - padding + tap * dilation < size
    return read
