"""Fine-tuning of a pruned network with the original as teacher (knowledge distillation, Hinton et al., 2015)."""

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from marquee.handlers.core.input import InputSpec
from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import TrainingState, load_weights
from marquee.training.core.config import CheckpointConfig, RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.device import autocast, resolve_device
from marquee.training.core.errors import TrainingError
from marquee.training.core.loop import Interrupted, NonFiniteLossError, NonFiniteValidationError, Trainer
from marquee.training.core.objective import Objective, Tensors
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.seeding import derive_seed
from marquee.training.core.task import Network, task_of

M = TypeVar("M", bound=nn.Module)

DEFAULT_LR_SHARE = 0.2
"""Share of the run's learning rate; a small one suffices, since the weights are already close to the optimum."""
WARM_UP_SHARE = 0.1
"""Largest share of the epochs spent on warm-up: the warm-up of a whole run could outlast the fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """How the student learns from the teacher."""

    epochs: int = 3
    """Passes over the training images."""
    lr: float = 0.0
    """Peak learning rate; 0: a fifth of the run's own."""
    temperature: float = 2.0
    """Divisor of both networks' logits; the higher, the more the teacher's probabilities of wrong classes count."""
    teacher_weight: float = 0.7
    """Weight of the loss against the teacher's outputs, 0 to 1; the rest is the loss against the labels."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if not 0 <= self.lr < float("inf"):
            raise ValueError(f"lr: expected at least 0, got {self.lr}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature: expected more than 0, got {self.temperature}")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight: expected 0 to 1, got {self.teacher_weight}")


def fine_tune(
    student: M,
    teacher: nn.Module,
    run: RunConfig,
    manifest: Any,
    source: InputSpec,
    config: DistilConfig,
    progress: Progress,
) -> M:
    """Trains ``student`` on the run's items, with their labels and the teacher's outputs as targets.

    Augmentation, mixing, optimiser, precision and batch size are those of the run, and so is the schedule, over fewer
    epochs and without frozen ones. Only temporary files are written.

    Args:
        student: the smaller network; not modified.
        teacher: the network that it was pruned from; not modified.
        run: the configuration that the teacher was trained with.
        manifest: the run's items.
        source: the run's input.
        config: the settings that differ from the run's.
        progress: where each epoch is reported.

    Returns:
        A copy of the student with the weights of the epoch with the best validation accuracy, on the CPU in eval mode;
        on a CPU, equal seeds give equal weights.

    Raises:
        TrainingError: training diverged, ended far below the teacher's accuracy, or was interrupted.
    """
    device, settings = resolve_device(run.loop.device), _settings(run, config)
    tuned = copy.deepcopy(student).requires_grad_(True)
    frozen_teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as temporary:
        context = RunContext(folder=RunFolder(Path(temporary)), device=device, progress=progress)
        trainer = build_trainer(settings, manifest, Network(model=tuned, input=source), context, cache=True)
        trainer.objective = Distillation(trainer.objective, frozen_teacher, config, trainer.precision)
        state = _fit(trainer, frozen_teacher, manifest)
        best = trainer.store.find("best")
        if best is None:
            raise TrainingError(f"fine-tuning ended after {state.epoch} epochs without a checkpoint")
        load_weights(best, tuned)
    return tuned.cpu().eval()


class Distillation:
    """Wraps an objective and adds a loss against the teacher's outputs for the same augmented and mixed inputs.

    Args:
        objective: gives the loss against the labels.
        teacher: the teacher, on the device of the run.
        config: weight and temperature of the loss against the teacher.
        precision: the run's precision.
    """

    def __init__(self, objective: Objective, teacher: nn.Module, config: DistilConfig, precision: str) -> None:
        self._objective, self._teacher, self._config, self._precision = objective, teacher, config, precision

    def __getattr__(self, name: str) -> Any:
        """Delegates everything but the loss to the wrapped objective."""
        return getattr(self._objective, name)

    def loss(self, outputs: torch.Tensor, inputs: Tensors, part: Tensors) -> torch.Tensor:
        """Weighted sum of the loss against the labels and the loss against the teacher."""
        hard, share = self._objective.loss(outputs, inputs, part), self._config.teacher_weight
        if not share:
            return hard
        with torch.no_grad(), autocast(inputs[0].device, self._precision):
            teacher_outputs = self._teacher(*inputs).float()
        soft = self._objective.soft_loss(outputs, teacher_outputs, self._config.temperature)
        return (1 - share) * hard + share * soft


def _fit(trainer: Trainer, teacher: nn.Module, manifest: Any) -> TrainingState:
    rate = trainer.config.optimizer.lr
    try:
        state = trainer.fit(TrainingState())
    except (NonFiniteLossError, NonFiniteValidationError) as error:
        raise TrainingError(f"fine-tuning diverged: {error}; lower its learning rate ({rate:g})") from error
    except Interrupted as error:
        raise TrainingError(f"fine-tuning was {error}; nothing was saved, start it again") from error
    expected, chance = trainer.judge(teacher).value, task_of(trainer.config).chance(trainer.config, manifest)
    if state.best_score < expected / 2 or state.best_score <= chance < expected:
        raise TrainingError(
            f"fine-tuning failed: validation accuracy {state.best_score:.3f}, teacher {expected:.3f}, always "
            f"the most common label {chance:.3f}; lower its learning rate ({rate:g}), train it longer, or prune less"
        )
    return state


def _settings(run: RunConfig, config: DistilConfig) -> RunConfig:
    rate = config.lr or run.optimizer.lr * DEFAULT_LR_SHARE
    optimizer = replace(
        run.optimizer,
        lr=rate,
        min_lr=min(rate, run.optimizer.min_lr * rate / run.optimizer.lr),
        warmup_epochs=min(run.optimizer.warmup_epochs, config.epochs * WARM_UP_SHARE),
        freeze_epochs=0,
    )
    # A seed of its own; with the run's seed, the augmentations of the run's first epochs would be repeated.
    seed = derive_seed(run.loop.seed, "fine-tune")
    loop = task_of(run).short_loop(replace(run.loop, epochs=config.epochs, patience=0, seed=seed))
    return replace(run, optimizer=optimizer, loop=loop, checkpoint=CheckpointConfig(keep=1))
