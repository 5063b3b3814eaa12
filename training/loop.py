"""The training loop."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from training.checkpoint import CheckpointStore, TrainingState
from training.config import RunConfig
from training.data.loading import BatchPlan, Loader
from training.device import autocast
from training.distributed import World
from training.errors import TrainingError
from training.files import write_atomic
from training.optim import learning_rate
from training.progress import Progress, Task
from training.seeding import seed_step


class Interrupted(TrainingError):  # noqa: N818 - a signal is no mistake
    """Training was stopped by a signal; everything up to here is in a checkpoint."""


@dataclass
class Trainer:
    """Everything that one training run holds; :meth:`fit` is the story."""

    config: RunConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    scaler: torch.amp.GradScaler
    plan: BatchPlan
    train_loader: Loader
    val_loader: Loader
    device: torch.device
    precision: str
    world: World
    store: CheckpointStore
    log: "MetricsLog"
    progress: Progress

    def __post_init__(self) -> None:
        self._forward: nn.Module = self.model
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._forward = DistributedDataParallel(self.model, device_ids=ids)
        if self.config.loop.compile:
            self._forward = torch.compile(self._forward)  # type: ignore[assignment]

    def fit(self, state: TrainingState) -> TrainingState:
        """Trains from ``state`` to the last epoch or until validation stops improving.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved first.
            TrainingError: the loss is not finite; the weights before that step stay in the last checkpoint.
        """
        loop = self.config.loop
        with deferred_signals() as signals, self.progress.task("training", loop.epochs * len(self.plan)) as task:
            task.advance(count=state.epoch * len(self.plan) + state.batch)
            while state.epoch < loop.epochs and not state.finished:
                state = self._train_epoch(state, signals, task)
                val_loss, val_accuracy = self._validate()
                state, best = self._judge(state, val_loss, val_accuracy)
                self._report(state, val_loss, val_accuracy, best)
                state = replace(state, sums={})
                self._save(state, best)
                if self.world.any(signals.received) and not state.finished:
                    raise Interrupted(f"interrupted after epoch {state.epoch}")
        return state

    def _train_epoch(self, state: TrainingState, signals: "Signals", task: Task) -> TrainingState:
        self.model.train()
        self.plan.epoch, self.plan.start = state.epoch, state.batch
        sums = {"loss": 0.0, "correct": 0.0, "images": 0.0, "seconds": 0.0, **state.sums}
        started = time.monotonic()
        for batch, (pixels, labels) in enumerate(self.train_loader, start=state.batch):
            step = state.epoch * len(self.plan) + batch
            loss, correct = self._step(pixels, labels, step)
            sums["loss"] += loss * len(labels)
            sums["correct"] += correct
            sums["images"] += len(labels)
            task.advance(f"epoch {state.epoch + 1}, loss {loss:.3f}")
            if self.world.any(signals.received) and batch + 1 < len(self.plan):
                sums["seconds"] += time.monotonic() - started
                self._save(replace(state, batch=batch + 1, sums=self._total(sums)), best=False)
                raise Interrupted(f"interrupted in epoch {state.epoch + 1}, after step {step + 1}")
        sums["seconds"] += time.monotonic() - started
        return replace(state, epoch=state.epoch + 1, batch=0, sums=sums)

    def _step(self, pixels: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[float, int]:
        """One update; returns the loss and the number of right answers of this process's share."""
        optimizer = self.config.optimizer
        seed_step(self.config.loop.seed, "step", step, self.world.rank)
        self._set_learning_rate(step)
        pixels = pixels.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        with autocast(self.device, self.precision):
            logits = self._forward(pixels)
            loss: torch.Tensor = self.loss(logits, labels)
        value = loss.item()
        # Every process must agree to stop, or the others would wait for its gradients for ever.
        if self.world.any(not math.isfinite(value)):
            raise TrainingError(
                f"the loss is {value} at step {step + 1}; lower --optimizer.lr, or use --loop.precision fp32"
            )
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return value, int((logits.argmax(1) == labels).sum())

    def _set_learning_rate(self, step: int) -> None:
        config, steps = self.config.optimizer, len(self.plan)
        rate = learning_rate(
            step, self.config.loop.epochs * steps, round(config.warmup_epochs * steps), config.lr, config.min_lr
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Mean negative log-likelihood and accuracy over the validation images, each counted once."""
        self.model.eval()
        self.world.copy_buffers(self.model)
        loss = correct = images = 0.0
        for pixels, labels in self.val_loader:
            labels = labels.to(self.device)
            with autocast(self.device, self.precision):
                logits = self.model(pixels.to(self.device)).float()
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
            images += len(labels)
        loss, correct, images = self.world.sum(loss, correct, images)
        return loss / images, correct / images

    def _judge(self, state: TrainingState, loss: float, accuracy: float) -> tuple[TrainingState, bool]:
        """Whether this epoch is the best so far, and whether it was the last."""
        loop, done = self.config.loop, state.epoch
        best = (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
        if best:
            state = replace(state, best_epoch=done, best_accuracy=accuracy, best_loss=loss)
        stop = 0 < loop.patience <= done - state.best_epoch
        return replace(state, finished=stop or done >= loop.epochs), best

    def _report(self, state: TrainingState, val_loss: float, val_accuracy: float, best: bool) -> None:
        loss, correct, images, seconds = self._total(state.sums).values()
        self.log.write(
            state.epoch,
            {
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": loss / images,
                "train_accuracy": correct / images,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "images_per_second": images / seconds,
                "seconds": seconds,
            },
        )
        self.progress.say(
            f"epoch {state.epoch:3d}/{self.config.loop.epochs}  "
            f"train loss {loss / images:.4f} accuracy {correct / images:.4f}  "
            f"val loss {val_loss:.4f} accuracy {val_accuracy:.4f}  "
            f"{images / seconds:.0f} images/s{'  best' if best else ''}"
        )
        if state.finished and state.epoch < self.config.loop.epochs:
            self.progress.say(f"stopped early: no better validation for {self.config.loop.patience} epochs")

    def _total(self, sums: dict[str, float]) -> dict[str, float]:
        """Running sums over all processes; the seconds are this one's."""
        keys = ("loss", "correct", "images")
        totals = self.world.sum(*(sums[key] for key in keys))
        return {**dict(zip(keys, totals, strict=True)), "seconds": sums["seconds"]}

    def _save(self, state: TrainingState, best: bool) -> None:
        if self.world.is_main:
            self.store.save(self.model, self.optimizer, self.scaler, state, best)
        self.world.barrier()


class MetricsLog:
    """Metrics of each epoch as JSON lines and for TensorBoard.

    Args:
        folder: the run's folder; None logs nothing (ranks other than 0).
        upto: epochs that are done; later lines, of an attempt that a resume repeats, are dropped.
    """

    def __init__(self, folder: Path | None, upto: int) -> None:
        self._path = folder / "metrics.jsonl" if folder else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=upto + 1) if folder else None
        if self._path is not None and self._path.exists():
            kept = [line for line in self._path.read_text("utf-8").splitlines() if _epoch_of(line) <= upto]
            write_atomic(self._path, "".join(line + "\n" for line in kept))

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Appends one epoch."""
        if self._path is None or self._board is None:
            return
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"epoch": epoch, **values}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        for name, value in values.items():
            self._board.add_scalar(name.replace("_", "/", 1), value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Ends the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def _epoch_of(line: str) -> float:
    """The epoch of a metrics line; infinite for one that a crash cut off."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@dataclass
class Signals:
    """Whether a signal asked to stop."""

    received: bool = False


@contextmanager
def deferred_signals() -> Iterator[Signals]:
    """Turns the first SIGINT or SIGTERM into a flag, so that no update is cut in half; the second acts at once."""
    state = Signals()

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
