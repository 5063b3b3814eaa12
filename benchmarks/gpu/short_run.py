"""The training loop of a run without what follows it: no bundle, no evaluation."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import TrainingState, load_checkpoint
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_device
from marquee.training.core.errors import CheckpointError
from marquee.training.core.loop import Trainer
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.progress import Progress
from marquee.training.core.records import prepare_folder
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """What a loop has left."""

    trainer: Trainer
    folder: RunFolder
    train_losses: tuple[float, ...]
    """Of each epoch."""
    accuracy: float
    """On the validation images after the last epoch, 0 to 1."""
    images_per_second: float
    """Of the last epoch."""

    @property
    def learns(self) -> bool:
        """Whether the training loss is finite and fell."""
        return all(map(math.isfinite, self.train_losses)) and self.train_losses[-1] < self.train_losses[0]

    @property
    def course(self) -> str:
        """The training loss at both ends, for people."""
        return f"training loss {self.train_losses[0]:.3f} to {self.train_losses[-1]:.3f}"


def assemble(config: RunConfig, data: Path, out: Path, resume: bool = False) -> Trainer:
    """The trainer of a run folder, as :func:`marquee.training.core.run.train` makes it; it writes no log."""
    context = RunContext(
        folder=RunFolder(out), device=resolve_device(config.loop.device), progress=Progress(quiet=True)
    )
    config, manifest = prepare_folder(config, data, out, resume, context.world, context.progress)
    return build_trainer(config, manifest, task_of(config).build(config, manifest), context, cache=True)


def fit(config: RunConfig, data: Path, out: Path, resume: bool = False) -> ShortRun:
    """Trains in a new run folder, or goes on in one from its last checkpoint.

    Raises:
        TrainingError: what the loop raises; there is no checkpoint to go on from.
    """
    trainer = assemble(config, data, out, resume)
    state = restore(trainer) if resume else TrainingState()
    trainer.log = MetricsLog(out, state.epoch)
    try:
        trainer.fit(state)
    finally:
        trainer.log.close()
    folder = RunFolder(out)
    epochs = [json.loads(line) for line in folder.metrics.read_text("utf-8").splitlines()]
    return ShortRun(
        trainer=trainer,
        folder=folder,
        train_losses=tuple(epoch["train_loss"] for epoch in epochs),
        accuracy=epochs[-1]["val_accuracy"],
        images_per_second=epochs[-1]["images_per_second"],
    )


def restore(trainer: Trainer) -> TrainingState:
    """Loads the last checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    last = trainer.store.find("last")
    if last is None:
        raise CheckpointError(f"{trainer.store.folder}: no checkpoint")
    average = trainer.average.module if trainer.average is not None else None
    return load_checkpoint(last, trainer.model, trainer.optimizer, trainer.scaler, average)
