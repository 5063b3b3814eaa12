"""One pass through a network before it is trained: what cannot work is said at once, and in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from marquee.handlers.core.input import InputSpec
from marquee.training.core.device import autocast
from marquee.training.core.errors import TrainingError
from marquee.training.core.out_of_memory import is_out_of_memory


def check_forward(model: nn.Module, source: InputSpec, items: int, device: torch.device, precision: str) -> None:
    """Passes as many empty items through the network, in training mode, as the smallest part of a step has.

    Weights, running statistics and random numbers stay as they are.

    Args:
        model: the network, on the device.
        source: what it takes.
        items: in the smallest part of a step.
        device: where it is trained.
        precision: in which it is trained.

    Raises:
        TrainingError: the network cannot be trained on such parts.
    """
    inputs = [torch.from_numpy(array).to(device) for array in source.example(items).values()]
    devices = [device] if device.type == "cuda" else []
    with _unchanged(model), torch.random.fork_rng(devices), torch.no_grad(), autocast(device, precision):
        try:
            model(*inputs)
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise TrainingError(_explain(model, items, error)) from error


def _explain(model: nn.Module, items: int, error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    if items == 1 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        return (
            f"batch norm needs more than one value of each channel, and the parts of a step have one item here ({said})"
            "; raise --loop.batch-size, lower --loop.accumulate, or train on fewer processes"
        )
    return (
        f"the network cannot be trained on these inputs: {said}; larger inputs, or another network (--model.arch), may "
        "help"
    )


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
