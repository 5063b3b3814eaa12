"""Many processes by ``torchrun``; without it everything here is a no-op.

GPU code follows PyTorch's documentation (NCCL, one process a device); the tests run gloo on CPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from training.errors import TrainingError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """Where this process stands among all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and talks to people."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.size == 1:
            return list(values)
        # NCCL reduces device memory only, gloo both.
        device = torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """True on all processes when ``flag`` is true on any."""
        return self.sum(float(flag))[0] > 0

    def copy_buffers(self, model: torch.nn.Module) -> None:
        """Gives all processes the main one's buffers (batch-norm statistics), which DDP lets drift between steps."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Waits for all processes."""
        self.sum(0.0)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Joins the process group that torchrun describes in the environment, for the length of the block.

    Raises:
        TrainingError: some of torchrun's variables are set and others are missing.
    """
    present = [name for name in _VARIABLES if name in os.environ]
    if not {"RANK", "WORLD_SIZE"} & set(present):
        yield World()
        return
    if missing := [name for name in _VARIABLES if name not in present]:
        raise TrainingError(
            f"{', '.join(present)} set but {', '.join(missing)} missing: start with torchrun, or unset the former"
        )
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if world.size == 1:
        yield world
        return
    # The others wait while the main process reads all images and later exports: an hour, not the default ten minutes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=1))
    try:
        yield world
    finally:
        dist.destroy_process_group()
