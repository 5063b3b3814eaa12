"""A training run that is out of memory in the middle of its second epoch.

``python -m benchmarks.gpu.short_of_memory CONFIG DATA OUT``: arguments and exit code are those of
:mod:`benchmarks.gpu.training`.
"""

import sys
from contextlib import suppress

import torch

from benchmarks.gpu import training
from marquee.training.core.loop import Trainer
from marquee.training.core.objective import Tensors

_SIZES = (1 << 22, 1 << 20, 1 << 18)
"""Bytes of the blocks that fill the memory; activations of a step are larger than the smallest."""
_IMPOSSIBLE = 1 << 50
"""Bytes that no machine has."""


def take_all(device: torch.device) -> list[torch.Tensor]:
    """Leaves this process nothing of the device's memory; other processes keep theirs.

    On a CPU, where memory that is promised need not be there, PyTorch's allocator is asked for more than there can be.

    Returns:
        What has to be kept for that.

    Raises:
        RuntimeError: out of memory, on a CPU.
    """
    if device.type == "cpu":
        return [torch.empty(_IMPOSSIBLE, dtype=torch.uint8)]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device) / total, device)
    taken: list[torch.Tensor] = []
    for size in _SIZES:  # what is free within the blocks that the process has
        with suppress(torch.OutOfMemoryError):
            while True:
                taken.append(torch.empty(size, dtype=torch.uint8, device=device))
    return taken


def end_memory() -> None:
    """Lets the memory end before the step in the middle of the second epoch, for every trainer of this process."""
    original = Trainer.step

    def short(self: Trainer, batch: Tensors, step: int, rate: float) -> tuple[float, dict[str, float]]:
        steps = len(self.sampler)
        taken = take_all(self.device) if step == steps + steps // 2 else []
        result = original(self, batch, step, rate)
        del taken
        return result

    Trainer.step = short  # type: ignore[method-assign]


if __name__ == "__main__":
    end_memory()
    sys.exit(training.main())
