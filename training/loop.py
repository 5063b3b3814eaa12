"""The training loop."""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from marquee.training.allocator import keep_freed_memory
from marquee.training.checkpoint import CheckpointStore, TrainingState
from marquee.training.config import LoopConfig, RunConfig
from marquee.training.data.loading import BatchPlan, Loader
from marquee.training.data.mixing import Mixing
from marquee.training.data.resizing import ProgressiveResizing, full_size_epoch
from marquee.training.device import autocast
from marquee.training.distributed import World
from marquee.training.ema import WeightAverage
from marquee.training.errors import TrainingError
from marquee.training.losses import count_right, negative_log_likelihood
from marquee.training.metrics_log import MetricsLog
from marquee.training.models import Classifier
from marquee.training.optim import set_learning_rate
from marquee.training.progress import Progress, Task
from marquee.training.schedules import learning_rate
from marquee.training.seeding import seed_step
from marquee.training.unread_taps import UnreadTaps

logger = logging.getLogger(__name__)


class Interrupted(TrainingError):  # noqa: N818 - a signal is no mistake
    """Training was stopped by a signal; everything up to here is in a checkpoint."""


class NonFiniteLossError(TrainingError):
    """The loss is infinite or no number; the weights are those before the step.

    Args:
        loss: what it is.
        step: of the whole run, 0 for the first.
        images: indices of the training images in the step.
    """

    def __init__(self, loss: float, step: int, images: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step + 1}")
        self.loss, self.step, self.images = loss, step, images


class NonFiniteValidationError(TrainingError):
    """The validation loss is infinite or no number; nothing of the epoch is kept.

    Args:
        loss: what it is.
        epoch: after which it was measured, 1 for the first.
    """

    def __init__(self, loss: float, epoch: int) -> None:
        super().__init__(f"the validation loss is {loss} after epoch {epoch}")


SUMS = ("loss", "correct", "images", "seconds", "data_seconds")
"""What an epoch adds up; the seconds are the main process's."""


@dataclass
class Trainer:
    """Everything that one training run holds; :meth:`fit` is the story."""

    config: RunConfig
    model: Classifier
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    resizing: ProgressiveResizing
    mixing: Mixing
    scaler: torch.amp.GradScaler
    plan: BatchPlan
    train_loader: Loader
    val_loader: Loader
    device: torch.device
    precision: str
    world: World
    store: CheckpointStore
    log: MetricsLog
    progress: Progress

    def __post_init__(self) -> None:
        self._frozen = False
        self._forward: nn.Module | None = None
        half_on_cpu = self.device.type == "cpu" and self.precision != "fp32"
        self._unread = UnreadTaps(self.model) if half_on_cpu else None

    def _wrap(self) -> nn.Module:
        """The model as it is called in training: for all processes together, and compiled where that is wanted."""
        forward: nn.Module = self.model
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=ids)
        return torch.compile(forward) if self.config.loop.compile else forward  # type: ignore[return-value]

    def set_mode(self, epoch: int) -> None:
        """Training mode, with all but the classifier frozen in the first epochs where that is wanted."""
        self.model.train()
        frozen = epoch < self.config.optimizer.freeze_epochs
        if frozen or self._frozen:
            self.model.set_frozen(frozen)
        if self._forward is None or frozen != self._frozen:
            # DDP fixes the set of gradients that it exchanges when it is made; the old one lets go of them first.
            self._forward = None
            self._frozen, self._forward = frozen, self._wrap()

    def fit(self, state: TrainingState) -> TrainingState:
        """Trains from ``state`` to the last epoch or until validation stops improving.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved first.
            NonFiniteLossError: and nothing was updated by that step.
            NonFiniteValidationError: and the checkpoints are those from before the epoch's end.
        """
        loop = self.config.loop
        if self.device.type == "cpu":
            keep_freed_memory()
        steps, done = loop.epochs * len(self.plan), state.epoch * len(self.plan) + state.batch
        with deferred_signals() as signals, self.progress.task("training", steps, done) as task:
            while state.epoch < loop.epochs and not state.finished:
                state = self._train_epoch(state, signals, task)
                val_loss, val_accuracy = self._validate()
                if not math.isfinite(val_loss):  # a network that answers with NaN can still be right by chance
                    raise NonFiniteValidationError(val_loss, state.epoch)
                state, best = self._judge(state, val_loss, val_accuracy)
                self._report(state, val_loss, val_accuracy, best)
                state = replace(state, sums={})
                self._save(state, best)
                if self.world.any(signals.received) and not state.finished:
                    raise Interrupted(f"interrupted after epoch {state.epoch}")
        return state

    def _train_epoch(self, state: TrainingState, signals: "Signals", task: Task) -> TrainingState:
        self.set_mode(state.epoch)
        self.plan.epoch, self.plan.start = state.epoch, state.batch
        sums = dict.fromkeys(SUMS, 0.0) | state.sums
        clock = time.monotonic()
        for batch, (pixels, labels) in enumerate(self.train_loader, start=state.batch):
            sums["data_seconds"] += time.monotonic() - clock
            step = state.epoch * len(self.plan) + batch
            rate = learning_rate(self.config.optimizer, step, len(self.plan), self.config.loop.epochs)
            loss, correct = self.step(pixels, labels, step, rate)
            sums["loss"] += loss * len(labels)
            sums["correct"] += correct
            sums["images"] += len(labels)
            sums["seconds"] += time.monotonic() - clock
            clock = time.monotonic()
            task.advance(f"epoch {state.epoch + 1}, loss {loss:.3f}")
            if batch + 1 < len(self.plan):
                self._save_within_epoch(replace(state, batch=batch + 1, sums=sums), step + 1, signals)
        return replace(state, epoch=state.epoch + 1, batch=0, sums=sums)

    def _save_within_epoch(self, state: TrainingState, steps: int, signals: "Signals") -> None:
        interrupted = self.world.any(signals.received)
        if interrupted or (self.config.checkpoint.steps and steps % self.config.checkpoint.steps == 0):
            self._save(replace(state, sums=self._total(state.sums)), best=False)
        if interrupted:
            raise Interrupted(f"interrupted in epoch {state.epoch + 1}, after step {steps}")

    def step(self, pixels: torch.Tensor, labels: torch.Tensor, step: int, rate: float) -> tuple[float, int]:
        """One update at the learning rate ``rate``, the ``step``-th of the run.

        Args:
            pixels: uint8 (N, H, W, C), this process's share of the step.
            labels: int64 (N,), or zeros and ones (N, classes).
            step: 0 for the first; it decides the step's random numbers.
            rate: before each group's scale.

        Returns:
            The loss and the number of right answers of this process's share.

        Raises:
            NonFiniteLossError: and nothing was updated.
        """
        optimizer, parts = self.config.optimizer, min(self.config.loop.accumulate, len(labels))
        seed_step(self.config.loop.seed, "step", step, self.world.rank)
        set_learning_rate(self.optimizer, rate)
        mixed, targets = self.mixing(pixels, labels)
        value, correct = 0.0, 0
        chunks = zip(mixed.tensor_split(parts), targets.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for number, (part, wanted, truth) in enumerate(chunks):
            with self._synchronised(number == parts - 1):
                images, targeted = (tensor.to(self.device, non_blocking=True) for tensor in (part, wanted))
                logits, loss = self.answer(self.resizing(images, step), targeted)
                loss = loss * (len(truth) / len(labels))
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            value += loss.item()
            correct += count_right(logits.detach().cpu(), truth)
        # Every process must agree to stop, or the others would wait for its gradients for ever.
        if self.world.any(not math.isfinite(value)):
            raise NonFiniteLossError(value, step, self.plan.images_of(*divmod(step, len(self.plan))))
        if self._unread is not None:
            self._unread.clear(self.resizing.side(step))
        self.scaler.unscale_(self.optimizer)
        if optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step)
        return value, correct

    def answer(self, pixels: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What training minimises, and for which answers; a subclass may minimise something else.

        Args:
            pixels: one part of a step on the device, uint8 or mixed float in 0..255 (N, H, W, C).
            targets: as the loss takes them.

        Returns:
            Logits, float32 (N, classes), and their mean loss.
        """
        if self._forward is None:
            raise RuntimeError("set_mode comes before the first step")
        with autocast(self.device, self.precision):
            logits = self._forward(pixels)
        # Half precision is for the network: the loss and its gradient start in float32.
        logits = logits.float()
        return logits, self.loss(logits, targets)

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once a step, after its last part."""
        if isinstance(self._forward, DistributedDataParallel) and not last:
            return self._forward.no_sync()
        return nullcontext()

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Mean negative log-likelihood and accuracy over the validation images, each counted once."""
        model = self.average.module if self.average is not None else self.model
        model.eval()
        self.world.copy_buffers(model)
        loss = correct = images = 0.0
        for pixels, labels in self.val_loader:
            labels = labels.to(self.device)
            with autocast(self.device, self.precision):
                logits = model(pixels.to(self.device)).float()
            loss += negative_log_likelihood(logits, labels)
            correct += count_right(logits, labels)
            images += len(labels)
        loss, correct, images = self.world.sum(loss, correct, images)
        return loss / images, correct / images

    def _judge(self, state: TrainingState, loss: float, accuracy: float) -> tuple[TrainingState, bool]:
        """Whether this epoch is the best so far, and whether it was the last."""
        loop, done = self.config.loop, state.epoch
        best = (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
        if best:
            state = replace(state, best_epoch=done, best_accuracy=accuracy, best_loss=loss)
        return replace(state, finished=done >= loop.epochs or out_of_patience(loop, state)), best

    def _report(self, state: TrainingState, val_loss: float, val_accuracy: float, best: bool) -> None:
        total = self._total(state.sums)
        loss, speed = total["loss"] / total["images"], total["images"] / total["seconds"]
        values = {
            "lr": self.optimizer.param_groups[-1]["lr"],
            "train_loss": loss,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "images_per_second": speed,
            "seconds": total["seconds"],
            "data_seconds": total["data_seconds"],
        }
        seen = ""
        if not self.mixing.enabled:  # a mixed image has no one right answer
            values["train_accuracy"] = total["correct"] / total["images"]
            seen = f" accuracy {values['train_accuracy']:.4f}"
        self.log.write(state.epoch, values)
        logger.info(
            f"epoch {state.epoch:3d}/{self.config.loop.epochs}  train loss {loss:.4f}{seen}  "
            f"val loss {val_loss:.4f} accuracy {val_accuracy:.4f}  {speed:.0f} images/s{'  best' if best else ''}"
        )
        if state.finished and state.epoch < self.config.loop.epochs:
            logger.info(f"stopped early: no better validation for {self.config.loop.patience} epochs")

    def _total(self, sums: dict[str, float]) -> dict[str, float]:
        """Running sums over all processes; the seconds are this one's."""
        counted = ("loss", "correct", "images")
        totals = self.world.sum(*(sums[key] for key in counted))
        return {**sums, **dict(zip(counted, totals, strict=True))}

    def _save(self, state: TrainingState, best: bool) -> None:
        if self.world.is_main:
            average = self.average.module if self.average is not None else None
            self.store.save(self.model, self.optimizer, self.scaler, state, best, average)
        self.world.barrier()


def out_of_patience(loop: LoopConfig, state: TrainingState) -> bool:
    """Whether validation has not improved for too long; while images still grow, it may yet."""
    return 0 < loop.patience <= state.epoch - max(state.best_epoch, full_size_epoch(loop))


@dataclass
class Signals:
    """Whether a signal asked to stop."""

    received: bool = False


@contextmanager
def deferred_signals() -> Iterator[Signals]:
    """Turns the first SIGINT or SIGTERM into a flag, so that no update is cut in half; the second acts at once.

    Only a process's main thread hears of signals; in another one nothing is changed.
    """
    state = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def remember(number: int, _: FrameType | None) -> None:
        if state.received:
            signal.signal(number, previous[number])
            raise KeyboardInterrupt
        state.received = True

    previous: dict[int, Any] = {n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
