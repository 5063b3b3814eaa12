"""Measures the memory and the speed of training steps at one batch size."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from marquee.child import ChildError, child
from marquee.training.core.allocator import keep_freed_memory
from marquee.training.core.assemble import build_trainer
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_device
from marquee.training.core.errors import TrainingError
from marquee.training.core.loop import deferred_signals
from marquee.training.core.out_of_memory import is_out_of_memory
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of
from marquee.training.tools.memory import peak_bytes

_SECONDS = 1.0
"""Steps are timed for at least this long."""
_IMPORTS = ("timm", "timm.optim", "torchvision.transforms.v2")
_POLL_SECONDS = 0.02
"""Interval of the memory checks of a child process, in which it cannot allocate much."""


class DoesNotFitError(TrainingError):
    """The training step needs more memory than is available."""


class BatchRefusedError(TrainingError):
    """The network cannot be trained with so few images per step."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """The training step to measure."""

    config: RunConfig
    manifest: Any
    """A few training items, which are repeated to fill a batch."""
    limit: int
    """The memory limit in bytes."""
    device: str


@dataclass(frozen=True, kw_only=True)
class BatchMeasurement:
    """The measurement of one batch size."""

    batch_size: int
    """Images per step."""
    peak_bytes: int
    """Peak memory: of the whole process on a CPU, of the allocator on a GPU."""
    images_per_second: float
    """Throughput of forward pass, backward pass and update, without data loading."""


def measure(trial: TrialSpec, batch_size: int) -> BatchMeasurement:
    """Runs training steps with ``batch_size`` images in this process.

    Raises:
        BatchRefusedError: the batch is too small for batch norm.
        TrainingError: the step failed; the message says what to do.
    """
    device = resolve_device(trial.device)
    if device.type == "cpu":
        keep_freed_memory()  # as in a training run
    network = task_of(trial.config).build(trial.config, trial.manifest)
    with tempfile.TemporaryDirectory() as folder:
        context = RunContext(folder=RunFolder(Path(folder)), device=device, progress=Progress(quiet=True))
        trainer = build_trainer(trial.config, trial.manifest, network, context)
    loaded = next(iter(trainer.train_loader))
    copies = -(-batch_size // len(loaded[0]))
    batch = tuple(torch.cat([part] * copies)[:batch_size] for part in loaded)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # After the frozen epochs, when all layers are trained and memory use is highest.
    trainer.set_mode(epoch=trial.config.optimizer.freeze_epochs)
    steps, started = 0, 0.0
    # The first step allocates the optimiser's state and compiles; timing starts with the second.
    while steps < 2 or time.monotonic() - started < _SECONDS:
        if steps == 1:
            started = time.monotonic()
        try:
            trainer.step(batch, steps, trial.config.optimizer.lr)
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
        return torch.mps.driver_allocated_memory()  # cached blocks are not freed, so this is the peak
    return peak_bytes()


def measure_in_child(trial: TrialSpec, batch_size: int) -> BatchMeasurement:
    """As :func:`measure`, in a new process that is ended as soon as it uses more than ``trial.limit``.

    Raises:
        DoesNotFitError: the process used more.
        BatchRefusedError: see :func:`measure`.
        TrainingError: the process failed; the message says what to do.
    """
    # A Ctrl-C while the process is being forked would be lost: Python ignores exceptions of fork hooks.
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
                f"a batch of {batch_size}: {error}; if the system ran out of memory, lower --memory-fraction"
            )
        if signals.received:
            raise KeyboardInterrupt
    if isinstance(outcome, TrainingError):
        raise outcome
    measurement: BatchMeasurement = outcome
    return measurement


def _load() -> None:
    """Loads nothing; the imports of this module are enough."""


def _outcome(_: None, trial: TrialSpec, batch_size: int) -> BatchMeasurement | TrainingError:
    """Runs in the child process; returns expected errors as results, so that their types are preserved."""
    try:
        return measure(trial, batch_size)
    except TrainingError as error:
        return error if isinstance(error, BatchRefusedError) else TrainingError(str(error))
    except (MemoryError, RuntimeError) as error:
        kind = DoesNotFitError if is_out_of_memory(error) else TrainingError
        return kind(f"a batch of {batch_size}: {error}")


def _resident_bytes(pid: int) -> int:
    import psutil  # a GPU's memory is measured without it

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # the process has ended
        return 0
