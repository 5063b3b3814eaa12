"""Fine-tuning of a network that was made smaller, with the larger one as its teacher (Hinton et al., 2015)."""

import copy
import tempfile
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch.nn import functional

from marquee.handlers.spec import ImageSpec
from marquee.training.assemble import build_caches, build_trainer
from marquee.training.checkpoint import TrainingState, load_weights
from marquee.training.config import CheckpointConfig, RunConfig
from marquee.training.context import RunContext
from marquee.training.data.manifest import Manifest, names_of
from marquee.training.device import autocast, resolve_device
from marquee.training.errors import TrainingError
from marquee.training.loop import Interrupted, NonFiniteLossError, NonFiniteValidationError, Trainer
from marquee.training.models import Classifier
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder
from marquee.training.seeding import derive_seed

DEFAULT_LR_SHARE = 0.2
"""Of the run's own learning rate: the weights are near where they shall be."""
WARM_UP_SHARE = 0.1
"""Of the epochs, at most: a warm-up made for a whole run would outlast a short one."""


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """How a smaller network learns from the larger one."""

    epochs: int = 3
    """Passes over the training images."""
    lr: float = 0.0
    """Peak learning rate; 0: a fifth of the run's own."""
    temperature: float = 2.0
    """What the logits of both are divided by: the higher, the more the teacher tells about the wrong classes."""
    teacher_weight: float = 0.7
    """Share of the loss that compares with the teacher, 0 to 1; the rest compares with the labels."""

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
    student: Classifier,
    teacher: Classifier,
    run: RunConfig,
    manifest: Manifest,
    image: ImageSpec,
    config: DistilConfig,
    progress: Progress,
) -> Classifier:
    """Trains ``student`` on the run's images, with their labels and the teacher's answers as targets.

    Augmentation, mixing, optimiser, precision and batches are the run's; the schedule is the run's, too, over fewer
    epochs and without frozen ones. Nothing is written but temporary files.

    Args:
        student: a smaller network; it is left as it is.
        teacher: the network that it was made from; it is left as it is.
        run: the configuration that the teacher was trained with.
        manifest: the run's images.
        image: the run's preprocessing.
        config: what is different from the run.
        progress: told about each epoch.

    Returns:
        A copy of the student with the weights of the epoch with the best validation accuracy, on the CPU in eval mode;
        on a CPU, equal seeds give equal weights.

    Raises:
        TrainingError: it diverged, it ended far below the teacher, or it was interrupted.
    """
    device, settings = resolve_device(run.loop.device), _settings(run, config)
    tuned = copy.deepcopy(student).requires_grad_(True)
    guide = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as temporary:
        context = RunContext(folder=RunFolder(Path(temporary)), device=device, progress=progress)
        caches = build_caches(settings, manifest, image, context)
        trainer = build_trainer(settings, manifest, tuned, image, context, caches)
        state = _fit(_Distiller.of(trainer, guide, config), manifest)
        best = trainer.store.find("best")
        if best is None:
            raise TrainingError(f"fine-tuning ended after {state.epoch} epochs without a checkpoint")
        load_weights(best, tuned)
    return tuned.cpu().eval()


def soft_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float, multi_label: bool) -> torch.Tensor:
    """How far the student's softened answers are from the teacher's.

    Args:
        student: logits, float (N, classes).
        teacher: logits, float (N, classes).
        temperature: both are divided by it.
        multi_label: each label is a decision of its own: binary cross-entropy with the teacher's probabilities in place
            of the Kullback-Leibler divergence from them.

    Returns:
        The mean over the batch, times the temperature's square, so that its gradient is as large as at temperature 1.
    """
    student, teacher = student / temperature, teacher / temperature
    if multi_label:
        loss = functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    else:
        logs = teacher.log_softmax(1)
        loss = functional.kl_div(student.log_softmax(1), logs, reduction="batchmean", log_target=True)
    return loss * temperature**2


@dataclass
class _Distiller(Trainer):
    """A trainer whose loss asks a teacher, too, about the same pixels: augmented and mixed."""

    teacher: Classifier
    distil: DistilConfig

    @classmethod
    def of(cls, trainer: Trainer, teacher: Classifier, distil: DistilConfig) -> "_Distiller":
        parts = {item.name: getattr(trainer, item.name) for item in fields(trainer)}
        return cls(**parts, teacher=teacher, distil=distil)

    def answer(self, pixels: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, hard = super().answer(pixels, targets)
        share = self.distil.teacher_weight
        if not share:
            return logits, hard
        with torch.no_grad(), autocast(self.device, self.precision):
            wanted = self.teacher(pixels).float()
        soft = soft_loss(logits, wanted, self.distil.temperature, self.config.model.multi_label)
        return logits, (1 - share) * hard + share * soft

    def teacher_accuracy(self) -> float:
        """On the validation images."""
        return replace(self, model=self.teacher, average=None)._validate()[1]


def _fit(trainer: _Distiller, manifest: Manifest) -> TrainingState:
    rate = trainer.config.optimizer.lr
    try:
        state = trainer.fit(TrainingState())
    except (NonFiniteLossError, NonFiniteValidationError) as error:
        raise TrainingError(f"fine-tuning diverged: {error}; lower its learning rate ({rate:g})") from error
    except Interrupted as error:
        raise TrainingError(f"fine-tuning was {error}; nothing of it is kept, start it again") from error
    wanted, chance = trainer.teacher_accuracy(), _chance(manifest)
    if state.best_accuracy < wanted / 2 or state.best_accuracy <= chance < wanted:
        raise TrainingError(
            f"fine-tuning failed: validation accuracy {state.best_accuracy:.3f}, teacher {wanted:.3f}, the commonest "
            f"label alone {chance:.3f}; lower its learning rate ({rate:g}), train it longer, or prune less"
        )
    return state


def _chance(manifest: Manifest) -> float:
    """Validation accuracy of always giving the commonest answer."""
    answers = Counter(names_of(record, manifest.multi_label) for record in manifest.split("val"))
    return max(answers.values()) / answers.total()


def _settings(run: RunConfig, config: DistilConfig) -> RunConfig:
    rate = config.lr or run.optimizer.lr * DEFAULT_LR_SHARE
    optimizer = replace(
        run.optimizer,
        lr=rate,
        min_lr=min(rate, run.optimizer.min_lr * rate / run.optimizer.lr),
        warmup_epochs=min(run.optimizer.warmup_epochs, config.epochs * WARM_UP_SHARE),
        freeze_epochs=0,
    )
    # Its own random numbers: the run's first epochs would come again, augmented in the same way.
    seed = derive_seed(run.loop.seed, "fine-tune")
    loop = replace(run.loop, epochs=config.epochs, patience=0, progressive_resizing=1.0, seed=seed)
    return replace(run, optimizer=optimizer, loop=loop, checkpoint=CheckpointConfig(keep=1))
