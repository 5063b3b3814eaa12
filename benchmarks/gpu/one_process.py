"""A process group with one process: what it takes to run collectives, DDP and FSDP2 on a machine with one GPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from benchmarks.gpu.material import quick_config
from benchmarks.gpu.short_run import assemble
from benchmarks.gpu.step import Site
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.loop import Trainer
from marquee.training.core.optim import create_optimizer


@contextmanager
def group_of_one(device: torch.device) -> Iterator[str]:
    """Joins a group of which this process is the only one; yields its backend, ``nccl`` or ``gloo``."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = TCPStore("127.0.0.1", 0, 1, is_master=True)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield backend
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A few steps of one network, in several ways."""

    site: Site
    data: Path
    steps: int
    sections: Mapping[str, Mapping[str, Any]]
    """Settings that differ from those of :func:`benchmarks.gpu.material.quick_config`."""

    def alone(self, name: str) -> list[float]:
        """The losses of the steps, and the validation loss after them; ``name`` is that of the run's folder."""
        return self._losses(self._trainer(name))

    def in_ddp(self, name: str) -> list[float]:
        """The same with DDP and every collective of the loop; within :func:`group_of_one`."""
        trainer = self._trainer(name)
        # It says two, since the loop leaves the collectives out for one; the group that it asks has one.
        trainer.world = ProcessGroup(rank=0, size=2, local_rank=trainer.device.index or 0)
        return self._losses(trainer)

    def in_fsdp(self, name: str) -> list[float]:
        """The same with sharded parameters; within :func:`group_of_one`."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        trainer = self._trainer(name)
        fully_shard(trainer.model, mesh=init_device_mesh(trainer.device.type, (1,)))
        # The old one has the parameters from before.
        trainer.optimizer = create_optimizer(trainer.model, trainer.config.optimizer, trainer.device)
        return self._losses(trainer)

    def _trainer(self, name: str) -> Trainer:
        return assemble(quick_config(self.site, **self.sections), self.data, self.site.work / name)

    def _losses(self, trainer: Trainer) -> list[float]:
        trainer.set_mode(0)
        rate = trainer.config.optimizer.lr
        batches = enumerate(islice(trainer.train_loader, self.steps))
        losses = [trainer.step(tuple(batch), number, rate)[0] for number, batch in batches]
        return [*losses, trainer.validate().loss]
