"""Training steps of one batch size: how much memory they take and how fast they are."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from marquee.child import ChildError, child
from marquee.training.allocator import keep_freed_memory
from marquee.training.assemble import build_model, build_trainer
from marquee.training.config import RunConfig
from marquee.training.context import RunContext
from marquee.training.data.manifest import Manifest
from marquee.training.device import resolve_device
from marquee.training.errors import TrainingError
from marquee.training.loop import deferred_signals
from marquee.training.memory import peak_bytes
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

_SECONDS = 1.0
"""Steps are timed for at least this long."""
_IMPORTS = ("timm", "timm.optim", "torchvision.transforms.v2")
_POLL_SECONDS = 0.02
"""Between two looks at a measuring process; it cannot fill much memory in that time."""


class DoesNotFitError(TrainingError):
    """The step needs more memory than there is."""


class BatchRefusedError(TrainingError):
    """The network cannot be trained with so few images a step."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is measured."""

    config: RunConfig
    manifest: Manifest
    """At least one training image of each class; they are repeated to fill a batch."""
    limit: int
    """Bytes that may be used."""
    device: str


@dataclass(frozen=True, kw_only=True)
class BatchMeasurement:
    """One batch size that was tried."""

    batch_size: int
    """Images a step."""
    peak_bytes: int
    """The most memory in use at once: the whole process's on a CPU, the allocator's on a GPU."""
    images_per_second: float
    """Forward, backward and update, without loading."""


def measure(trial: Trial, batch_size: int) -> BatchMeasurement:
    """Takes training steps of ``batch_size`` images in this process.

    Raises:
        BatchRefusedError: batch norm has nothing to average over.
        TrainingError: with what happened and what to do.
    """
    device = resolve_device(trial.device)
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    model, image = build_model(trial.config, trial.manifest)
    with tempfile.TemporaryDirectory() as nowhere:
        context = RunContext(folder=RunFolder(Path(nowhere)), device=device, progress=Progress(quiet=True))
        trainer = build_trainer(trial.config, trial.manifest, model, image, context)
    pixels, labels = next(iter(trainer.train_loader))
    copies = -(-batch_size // len(labels))
    pixels, labels = (torch.cat([part] * copies)[:batch_size] for part in (pixels, labels))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # Past the frozen epochs: what learns later takes more memory.
    trainer.set_mode(epoch=trial.config.optimizer.freeze_epochs)
    steps, started = 0, 0.0
    # The first step makes the optimiser's state and compiles what is compiled: the second is the first whole one.
    while steps < 2 or time.monotonic() - started < _SECONDS:
        if steps == 1:
            started = time.monotonic()
        try:
            trainer.step(pixels, labels, steps, trial.config.optimizer.lr)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise BatchRefusedError("too few images for this network's batch norm") from error
            raise
        steps += 1
    seconds = time.monotonic() - started
    return BatchMeasurement(
        batch_size=batch_size,
        peak_bytes=_peak(device),
        images_per_second=round(batch_size * (steps - 1) / seconds, 2),
    )


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # the cached blocks keep it at its highest
    return peak_bytes()


def measure_in_child(trial: Trial, batch_size: int) -> BatchMeasurement:
    """As :func:`measure`, in a fresh process that is ended as soon as it holds more than ``trial.limit``.

    Raises:
        DoesNotFitError: it held more.
        BatchRefusedError: see :func:`measure`.
        TrainingError: with what happened and what to do.
    """
    # A Ctrl-C while a process is being made would be lost: Python ignores what a fork's hooks raise.
    with deferred_signals() as signals, child(_load, imports=_IMPORTS) as process:
        process.submit(_outcome, trial, batch_size)
        while not process.poll(_POLL_SECONDS):
            if signals.received:
                raise KeyboardInterrupt
            if _resident_bytes(process.pid) > trial.limit:
                raise DoesNotFitError(f"a batch of {batch_size} needs more than the limit")
        try:
            outcome = process.result()
        except ChildError as error:
            outcome = TrainingError(
                f"a batch of {batch_size}: {error}; lower --memory-fraction when the system ran out of it"
            )
        if signals.received:
            raise KeyboardInterrupt
    if isinstance(outcome, TrainingError):
        raise outcome
    measurement: BatchMeasurement = outcome
    return measurement


def _load() -> None:
    """Nothing but what this file imports."""


def _outcome(_: None, trial: Trial, batch_size: int) -> BatchMeasurement | TrainingError:
    """What the child does; errors that mean something are results, so that they keep their kinds."""
    try:
        return measure(trial, batch_size)
    except TrainingError as error:
        return error if isinstance(error, BatchRefusedError) else TrainingError(str(error))
    except (MemoryError, RuntimeError) as error:
        kind = DoesNotFitError if isinstance(error, MemoryError) or "allocate memory" in str(error) else TrainingError
        return kind(f"a batch of {batch_size}: {error}")


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it has ended
        return 0
