"""A workaround: taps of a kernel that see nothing but padding get a gradient of zero, not of whatever was in memory.

Where a feature map is so small that a tap lies on the padding wherever the kernel stands, such as the outer ones of 3x3
at stride 2 on a map of 1x1, that tap's gradient is zero. oneDNN's half-precision convolutions do not write it at all
(seen with torch 2.14.1, oneDNN's AVX512-BF16 kernels): the weights become NaN, or two equal runs differ.
"""

import copy
from collections import defaultdict
from itertools import product

import torch
from torch import nn

from training.models import Classifier


class UnreadTaps:
    """The taps of a network that no image reaches.

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
        found = []
        sizes = _input_sizes(self._model, side)
        for name, module in self._model.named_modules():
            if isinstance(module, nn.Conv2d) and name in sizes:
                unread = torch.stack([unread_taps(module, size) for size in sizes[name]]).all(0)
                if unread.any():
                    found.append((module.weight, unread))
        return found


def _input_sizes(model: Classifier, side: int) -> dict[str, list[tuple[int, int]]]:
    """Convolution -> height and width of what it is given, each time that it is called; a copy of the network runs."""
    sizes = defaultdict(list)
    probe = copy.deepcopy(model).eval()
    for name, module in probe.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: sizes[name].append(tuple(inputs[0].shape[-2:]))
            )
    with torch.inference_mode():
        probe(torch.zeros(1, side, side, model.mean.numel(), dtype=torch.uint8))
    return sizes


def unread_taps(convolution: nn.Conv2d, size: tuple[int, int]) -> torch.Tensor:
    """Of shape (kernel height, kernel width): the taps that only see padding on a map of ``size`` (height, width)."""
    rows, columns = (_read(convolution, axis, size[axis]) for axis in (0, 1))
    return ~(rows[:, None] & columns[None, :])


def _read(convolution: nn.Conv2d, axis: int, size: int) -> torch.Tensor:
    """Of shape (kernel,), whether any position of the kernel puts the tap on the map."""
    kernel, stride, dilation = (
        values[axis] for values in (convolution.kernel_size, convolution.stride, convolution.dilation)
    )
    # In PyTorch's order: last axis first, begin and end of each.
    before, after = convolution._reversed_padding_repeated_twice[2 * (1 - axis) :][:2]
    positions = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    read = torch.zeros(kernel, dtype=torch.bool)
    for position, tap in product(range(positions), range(kernel)):
        read[tap] |= 0 <= position * stride - before + tap * dilation < size
    return read
