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

from marquee.handlers.core.precision import widened
from marquee.training.core.allocator import keep_freed_memory
from marquee.training.core.checkpoint import CheckpointStore, TrainingState
from marquee.training.core.config import LoopConfig, RunConfig
from marquee.training.core.device import autocast
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.ema import WeightAverage
from marquee.training.core.errors import TrainingError
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.objective import Objective, Score, Tensors
from marquee.training.core.optim import set_learning_rate
from marquee.training.core.progress import Progress, Task
from marquee.training.core.sampler import DistributedBatchSampler, Loader
from marquee.training.core.schedules import learning_rate
from marquee.training.core.seeding import seed_step

logger = logging.getLogger(__name__)


class Interrupted(TrainingError):  # noqa: N818 - a signal is not an error
    """Training was stopped by a signal; its state is saved in a checkpoint."""


class NonFiniteLossError(TrainingError):
    """The loss is infinite or NaN; the weights are those before the step.

    Args:
        loss: its value.
        step: index of the step in the whole run, 0 for the first.
        items: indices of the training items in the step.
    """

    def __init__(self, loss: float, step: int, items: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step + 1}")
        self.loss, self.step, self.items = loss, step, items


class NonFiniteValidationError(TrainingError):
    """The validation loss is infinite or NaN; no checkpoint is written at the end of the epoch.

    Args:
        loss: its value.
        epoch: the epoch after which it was measured, 1 for the first.
    """

    def __init__(self, loss: float, epoch: int) -> None:
        super().__init__(f"the validation loss is {loss} after epoch {epoch}")


SUMS = ("loss", "items", "seconds", "data_seconds")
"""Sums over an epoch, besides the counts of the objective; the seconds are those of the main process."""


@dataclass
class Trainer:
    """All parts of a training run; :meth:`fit` runs it."""

    config: RunConfig
    model: nn.Module
    objective: Objective
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sampler: DistributedBatchSampler
    train_loader: Loader
    val_loader: Loader
    device: torch.device
    precision: str
    world: ProcessGroup
    store: CheckpointStore
    log: MetricsLog
    progress: Progress

    def __post_init__(self) -> None:
        self._frozen = False
        self._forward: nn.Module | None = None
        self._gradient_norm = math.inf

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return self.config.loop.epochs * len(self.sampler)

    @property
    def smallest_part(self) -> int:
        """Items of the smallest part of a step of this process."""
        items = self.sampler.items_of_a_step
        return items // min(self.config.loop.accumulate, items)

    def _wrap(self) -> nn.Module:
        """The model as it is called in training: in DDP if there are several processes, and compiled if configured."""
        forward: nn.Module = self.model
        if self.world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=ids)
        return torch.compile(forward) if self.config.loop.compile else forward  # type: ignore[return-value]

    def set_mode(self, epoch: int) -> None:
        """Sets training mode; in the first ``freeze_epochs`` epochs, all but the classifier is frozen."""
        self.model.train()
        frozen = epoch < self.config.optimizer.freeze_epochs
        if frozen and not hasattr(self.model, "set_frozen"):
            raise TrainingError("--optimizer.freeze-epochs: this model has no part that could be frozen")
        if frozen or self._frozen:
            self.model.set_frozen(frozen)  # type: ignore[operator]
        if self._forward is None or frozen != self._frozen:
            # DDP fixes the set of gradients that it exchanges when it is created; the old one is released first.
            self._forward = None
            self._frozen, self._forward = frozen, self._wrap()

    def fit(self, state: TrainingState) -> TrainingState:
        """Trains from ``state`` to the last epoch or until validation stops improving.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved first.
            NonFiniteLossError: the loss of a step is infinite or NaN; the step changed no weights.
            NonFiniteValidationError: the validation loss is infinite or NaN; no checkpoint is written after it.
        """
        loop = self.config.loop
        if self.device.type == "cpu":
            keep_freed_memory()
        done = state.epoch * len(self.sampler) + state.batch
        with deferred_signals() as signals, self.progress.task("training", self.steps, done) as task:
            while state.epoch < loop.epochs and not state.finished:
                state = self._train_epoch(state, signals, task)
                score = self.validate()
                if not math.isfinite(score.loss):  # a network that answers with NaN can still be right by chance
                    raise NonFiniteValidationError(score.loss, state.epoch)
                state, best = self._is_best(state, score)
                self._report(state, score, best)
                state = replace(state, sums={})
                self._save(state, best)
                if self.world.any(signals.received) and not state.finished:
                    raise Interrupted(f"interrupted after epoch {state.epoch}")
        return state

    def _train_epoch(self, state: TrainingState, signals: "Signals", task: Task) -> TrainingState:
        self.set_mode(state.epoch)
        self.sampler.epoch, self.sampler.start = state.epoch, state.batch
        sums = dict.fromkeys((*SUMS, *self.objective.counted), 0.0) | state.sums
        clock = time.monotonic()
        for number, batch in enumerate(self.train_loader, start=state.batch):
            sums["data_seconds"] += time.monotonic() - clock
            step = state.epoch * len(self.sampler) + number
            rate = learning_rate(self.config.optimizer, step, len(self.sampler), self.config.loop.epochs)
            loss, counts = self.step(tuple(batch), step, rate)
            sums["loss"] += loss * len(batch[0])
            for name, count in counts.items():
                sums[name] += count
            sums["items"] += len(batch[0])
            sums["seconds"] += time.monotonic() - clock
            clock = time.monotonic()
            task.advance(f"epoch {state.epoch + 1}, loss {loss:.3f}")
            if number + 1 < len(self.sampler):
                self._save_within_epoch(replace(state, batch=number + 1, sums=sums), step + 1, signals)
        total = self._total(sums)
        loss = total["loss"] / total["items"]
        converged = has_converged(self.config.loop, state.train_loss, loss, self._gradient_norm)
        return replace(state, epoch=state.epoch + 1, batch=0, sums=sums, train_loss=loss, converged=converged)

    def _save_within_epoch(self, state: TrainingState, steps: int, signals: "Signals") -> None:
        interrupted = self.world.any(signals.received)
        if interrupted or (self.config.checkpoint.steps and steps % self.config.checkpoint.steps == 0):
            self._save(replace(state, sums=self._total(state.sums)), best=False)
        if interrupted:
            raise Interrupted(f"interrupted in epoch {state.epoch + 1}, after step {steps}")

    def step(self, batch: Tensors, step: int, rate: float) -> tuple[float, dict[str, float]]:
        """One update at the learning rate ``rate``, the ``step``-th of the run.

        Args:
            batch: this process's share of the step, from the loader.
            step: 0 for the first; it determines the step's random numbers.
            rate: before the scale of each parameter group.

        Returns:
            The loss of this process's share, and the counts of the objective for it.

        Raises:
            NonFiniteLossError: the loss is infinite or NaN; no weights were changed.
        """
        items, optimizer = len(batch[0]), self.config.optimizer
        parts = min(self.config.loop.accumulate, items)
        seed_step(self.config.loop.seed, "step", step, self.world.rank)
        set_learning_rate(self.optimizer, rate)
        prepared = self.objective.prepare(batch, step)
        value, counts = 0.0, dict.fromkeys(self.objective.counted, 0.0)
        for number, rows in enumerate(zip(*(tensor.tensor_split(parts) for tensor in prepared), strict=True)):
            with self._synchronised(number == parts - 1):
                part = tuple(tensor.to(self.device, non_blocking=True) for tensor in rows)
                inputs = self.objective.inputs(part, step)
                outputs = self._call(inputs)
                loss = self.objective.loss(outputs, inputs, part) * (len(part[0]) / items)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            value += loss.item()
            for name, count in self.objective.count(outputs.detach(), part).items():
                counts[name] += count
        # Every process must agree to stop, or the others would wait for its gradients forever.
        if self.world.any(not math.isfinite(value)):
            raise NonFiniteLossError(value, step, self.sampler.items_of(*divmod(step, len(self.sampler))))
        self.objective.after_backward(step)
        self.scaler.unscale_(self.optimizer)
        if optimizer.clip_norm or self.config.loop.gradient_tolerance:
            # A norm that no gradient exceeds only measures.
            largest = optimizer.clip_norm or math.inf
            self._gradient_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), largest))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, step)
        return value, counts

    def _call(self, inputs: Tensors) -> torch.Tensor:
        """The network's outputs, float32."""
        if self._forward is None:
            raise RuntimeError("set_mode must be called before the first step")
        with autocast(self.device, self.precision):
            outputs: torch.Tensor = self._forward(*inputs)
        # Only the network runs in half precision: the loss is computed in float32, or in the network's own float64.
        return widened(outputs)

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once per step, after its last part."""
        if isinstance(self._forward, DistributedDataParallel) and not last:
            return self._forward.no_sync()
        return nullcontext()

    def validate(self) -> Score:
        """The score of the network that would be served on the validation items, each counted once."""
        return self.judge(self.average.module if self.average is not None else self.model)

    @torch.inference_mode()
    def judge(self, model: nn.Module) -> Score:
        """The score of ``model`` on the validation items."""
        model.eval()
        self.world.copy_buffers(model)
        names = ("loss", *self.objective.counted)
        sums, items = dict.fromkeys(names, 0.0), 0.0
        for batch in self.val_loader:
            part = tuple(tensor.to(self.device) for tensor in batch)
            with autocast(self.device, self.precision):
                outputs = widened(model(*self.objective.inputs(part, self.steps)))
            for name, value in self.objective.validate(outputs, part).items():
                sums[name] += value
            items += len(part[0])
        *totals, items = self.world.sum(*(sums[name] for name in names), items)
        return self.objective.score({**dict(zip(names, totals, strict=True)), "items": items})

    def _is_best(self, state: TrainingState, score: Score) -> tuple[TrainingState, bool]:
        """The state after an epoch, with whether training is finished; and whether its weights are to be kept."""
        loop, epoch = self.config.loop, state.epoch
        improved = (score.value, -score.loss) > (state.best_score, -state.best_loss)
        if improved:
            state = replace(state, best_epoch=epoch, best_score=score.value, best_loss=score.loss)
        finished = epoch >= loop.epochs or state.converged or out_of_patience(loop, state)
        return replace(state, finished=finished), improved or loop.select == "last"

    def _report(self, state: TrainingState, score: Score, best: bool) -> None:
        total = self._total(state.sums)
        loss, speed = total["loss"] / total["items"], total["items"] / total["seconds"]
        unit = self.objective.unit
        values = {
            "lr": self.optimizer.param_groups[-1]["lr"],
            "train_loss": loss,
            "val_loss": score.loss,
            **score.values,
            f"{unit}_per_second": speed,
            "seconds": total["seconds"],
            "data_seconds": total["data_seconds"],
        }
        train_values, text = self.objective.train_values(total)
        self.log.write(state.epoch, {**values, **train_values})
        logger.info(
            f"epoch {state.epoch:3d}/{self.config.loop.epochs}  train loss {loss:.4f}{text and f' {text}'}  "
            f"val loss {score.loss:.4f} {score.text}  {speed:.0f} {unit}/s"
            f"{'  best' if best and self.config.loop.select != 'last' else ''}"
        )
        if state.converged:
            logger.info(f"converged: {_why_converged(self.config.loop, self._gradient_norm)}")
        elif state.finished and state.epoch < self.config.loop.epochs:
            logger.info(f"stopped early: no better validation score for {self.config.loop.patience} epochs")

    def _total(self, sums: dict[str, float]) -> dict[str, float]:
        """Running sums over all processes; the seconds remain those of this process."""
        names = ("loss", *self.objective.counted, "items")
        totals = self.world.sum(*(sums[name] for name in names))
        return {**sums, **dict(zip(names, totals, strict=True))}

    def _save(self, state: TrainingState, best: bool) -> None:
        if self.world.is_main:
            average = self.average.module if self.average is not None else None
            self.store.save(self.model, self.optimizer, self.scaler, state, best, average)
        self.world.barrier()


def out_of_patience(loop: LoopConfig, state: TrainingState) -> bool:
    """Whether the score has not improved for ``patience`` epochs, counted from ``first_full_epoch`` at the earliest."""
    return 0 < loop.patience <= state.epoch - max(state.best_epoch, loop.first_full_epoch)


def has_converged(loop: LoopConfig, before: float, loss: float, gradient_norm: float) -> bool:
    """Whether the training loss of an epoch or its last gradient is within the configured tolerance.

    Args:
        loop: the tolerances.
        before: loss of the epoch before.
        loss: of this epoch.
        gradient_norm: of its last step.
    """
    if loop.gradient_tolerance and gradient_norm <= loop.gradient_tolerance:
        return True
    # There is no epoch before the first.
    return (
        bool(loop.loss_tolerance) and math.isfinite(before) and abs(before - loss) <= loop.loss_tolerance * abs(before)
    )


def _why_converged(loop: LoopConfig, gradient_norm: float) -> str:
    if loop.gradient_tolerance and gradient_norm <= loop.gradient_tolerance:
        return f"the norm of the gradient, {gradient_norm:.2g}, is at most {loop.gradient_tolerance:g}"
    return f"the training loss fell by less than {loop.loss_tolerance:g} of itself"


@dataclass
class Signals:
    """Whether a signal to stop was received."""

    received: bool = False


@contextmanager
def deferred_signals() -> Iterator[Signals]:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag, so that no update is interrupted.

    A second SIGINT or SIGTERM takes effect at once; a second SIGHUP does not, because the shell and the system may each
    send one when a terminal is closed. Under ``nohup``, which ignores SIGHUP, it stays ignored.

    Only the main thread of a process receives signals; in other threads nothing is changed.
    """
    state = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return

    def remember(number: int, _: FrameType | None) -> None:
        if state.received and number == signal.SIGHUP:
            return
        if state.received:
            signal.signal(number, previous[number])
            raise KeyboardInterrupt
        state.received = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    previous: dict[int, Any] = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield state
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
