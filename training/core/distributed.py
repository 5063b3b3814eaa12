"""Training in several processes with ``torchrun``; without it everything here is a no-op.

GPU code follows PyTorch's documentation (NCCL, one process per device); the tests run gloo on CPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from marquee.training.core.errors import TrainingError

_TIMEOUT = timedelta(hours=1)
"""Not the default ten minutes: the others wait while the main process reads all images and later exports."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process and the number of processes."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and logs."""
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
        """Copies the main process's buffers (batch-norm statistics, which diverge under DDP) to all processes."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Waits for all processes."""
        self.sum(0.0)


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Joins the process group that torchrun describes in the environment, for the length of the block.

    Raises:
        TrainingError: some of torchrun's variables are set and others are missing.
    """
    present = [name for name in _VARIABLES if name in os.environ]
    if not {"RANK", "WORLD_SIZE"} & set(present):
        yield ProcessGroup()
        return
    if missing := [name for name in _VARIABLES if name not in present]:
        raise TrainingError(
            f"{', '.join(present)} set but {', '.join(missing)} missing: start with torchrun, or unset the former"
        )
    world = ProcessGroup(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    if world.size == 1:
        yield world
        return
    _init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()


def _init_process_group(backend: str) -> None:
    """Initialises the process group as torch does, except after a restart by torchrun.

    torchrun keeps its store across restarts, with the addresses of processes that no longer exist; a process that reads
    such an address before it is renewed cannot connect. On one node, the restart count separates old entries from new
    ones. Several nodes count restarts independently, so torchrun has to open a new store there (docs/training.md).
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restart == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        dist.init_process_group(backend, timeout=_TIMEOUT)
        return
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    fresh = PrefixStore(f"restart-{restart}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=_TIMEOUT)
