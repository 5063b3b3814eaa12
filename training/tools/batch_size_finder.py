"""The largest batch whose training step fits in memory.

On a GPU, training steps are run with increasing batch sizes until one does not fit. On a CPU, that would make the
machine swap or trigger the OOM killer, so a few small batches are measured, each in a new process, and the memory of
larger ones is predicted by linear regression on the peaks.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from marquee.training.core.config import RunConfig
from marquee.training.core.device import resolve_device, resolve_precision
from marquee.training.core.errors import TrainingError
from marquee.training.core.optim import check_optimizer
from marquee.training.core.out_of_memory import is_out_of_memory
from marquee.training.core.progress import Progress
from marquee.training.core.records import read_data
from marquee.training.core.task import task_of
from marquee.training.tools.batch_trial import (
    BatchMeasurement,
    BatchRefusedError,
    DoesNotFitError,
    TrialSpec,
    measure,
    measure_in_child,
)
from marquee.training.tools.memory import available_bytes
from marquee.training.tools.memory_limit import MemoryLimit, mib

logger = logging.getLogger(__name__)

_GROWTH = 0.1
"""Measuring ends when memory has grown by this share, which is more than the variation of the allocator."""


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """The measurements and the results derived from them."""

    largest: int
    """The largest power of two, up to the number of training images, that fits."""
    predicted: bool
    """True if ``largest`` is predicted by the linear fit, False if it was measured."""
    fastest: int
    """The measured batch size with the most images per second."""
    limit_bytes: int
    """The memory limit."""
    base_bytes: int
    """Memory that a process needs regardless of the batch size, by the linear fit."""
    bytes_per_image: int
    """Memory that each image of a batch adds, by the linear fit."""
    measured: tuple[BatchMeasurement, ...]
    """In ascending order of batch size."""
    device: str
    precision: str
    """fp32, bf16 or fp16."""


def find_batch_size(config: RunConfig, data: Path, start: int, limit: MemoryLimit, progress: Progress) -> BatchSizes:
    """Finds the largest batch that fits, for the configured model, optimiser, precision and memory layout.

    ``--loop.accumulate`` counts as 1 and ``--loop.batch-size`` is not used. No file is written.

    Args:
        config: the run's configuration.
        data: the data set, which determines the classes, the channels and the largest batch size to try.
        start: the first batch size to try, a power of two.
        limit: how much memory may be used.
        progress: where progress is reported.

    Raises:
        TrainingError: no batch fits, or something else failed; the message says what to do.
    """
    device = resolve_device(config.loop.device)
    task = task_of(config)
    task.check(config)
    check_optimizer(config.optimizer)
    manifest, _ = read_data(config, data, progress)
    config = task.resolve(config, manifest)
    images = len(manifest.split("train"))
    if start > images:
        raise TrainingError(f"--from {start}: there are only {images} training images; lower it")
    trial_config, trial_manifest = task.for_trials(config, manifest)
    trial = TrialSpec(
        config=replace(trial_config, loop=replace(task.short_loop(trial_config.loop), accumulate=1, workers=0)),
        manifest=trial_manifest,
        limit=_resolve_limit(limit, device),
        device=str(device),
    )
    logger.info(f"{task.title(config)} on {device}, {mib(trial.limit)} may be used")
    search = _predict if device.type == "cpu" else _double
    end = 1 << (images.bit_length() - 1)
    measured, largest = search(trial, start, end, progress)
    line = _line(measured)
    return BatchSizes(
        largest=largest,
        predicted=largest not in {item.batch_size for item in measured},
        fastest=max(measured, key=lambda item: item.images_per_second).batch_size,
        limit_bytes=trial.limit,
        base_bytes=round(line.base),
        bytes_per_image=round(line.slope),
        measured=tuple(measured),
        device=trial.device,
        precision=resolve_precision(config.loop.precision, device),
    )


def _predict(trial: TrialSpec, start: int, end: int, progress: Progress) -> tuple[list[BatchMeasurement], int]:
    """Measures as few batches as a linear fit needs; returns them and the largest size that fits by prediction."""

    def worth_trying(measured: list[BatchMeasurement], size: int) -> bool:
        peaks = [item.peak_bytes for item in measured]
        if len(peaks) < 2:
            return True
        grown = peaks[-1] > peaks[0] * (1 + _GROWTH)
        return not (grown and len(peaks) >= 3) and _line(measured).at(size) <= trial.limit

    measured, refused = _measure_upwards(trial, start, end, 4, measure_in_child, worth_trying, progress)
    line = _line(measured)
    largest = measured[-1].batch_size
    while largest * 2 <= end and largest * 2 < refused and line.at(largest * 2) <= trial.limit:
        largest *= 2
    return measured, largest


def _double(trial: TrialSpec, start: int, end: int, progress: Progress) -> tuple[list[BatchMeasurement], int]:
    """Doubles the batch until it does not fit; returns the measurements that fit and the largest size.

    Follows PyTorch's documentation of memory management; the tests run without a GPU.
    """
    measured, _ = _measure_upwards(trial, start, end, 2, _measure_on_gpu, lambda *_: True, progress)
    return measured, measured[-1].batch_size


def _measure_upwards(
    trial: TrialSpec,
    start: int,
    end: int,
    factor: int,
    measure_size: Callable[[TrialSpec, int], BatchMeasurement],
    worth_trying: Callable[[list[BatchMeasurement], int], bool],
    progress: Progress,
) -> tuple[list[BatchMeasurement], int]:
    """Measures increasing sizes from ``start`` to ``end``; returns those that fit and the first size that does not."""
    measured: list[BatchMeasurement] = []
    size, refused = start, end * 2
    while size <= end and worth_trying(measured, size):
        try:
            measurement = measure_size(trial, size)
        except BatchRefusedError as error:
            logger.info(f"batch of {size}: {error}")
            size *= 2
            continue
        except DoesNotFitError:
            measurement = None
        if measurement is None or measurement.peak_bytes > trial.limit:
            logger.info(f"batch of {size}: does not fit")
            refused = size
            break
        logger.info(f"batch of {size}: {mib(measurement.peak_bytes)}, {measurement.images_per_second:.1f} images/s")
        measured.append(measurement)
        size = end if size < end < size * factor else size * factor
    if not measured:
        raise TrainingError(
            f"not even a batch of {min(size, end)} fits in {mib(trial.limit)}; "
            "lower --from or --image.size, or choose a smaller --model.arch"
        )
    return measured, refused


def _measure_on_gpu(trial: TrialSpec, batch_size: int) -> BatchMeasurement:
    device = resolve_device(trial.device)
    try:
        return measure(trial, batch_size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFitError(f"a batch of {batch_size}: {error}") from None
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        elif device.type == "mps":
            torch.mps.empty_cache()


@dataclass(frozen=True)
class _Line:
    base: float
    slope: float

    def at(self, batch_size: int) -> float:
        return self.base + self.slope * batch_size


def _line(measured: list[BatchMeasurement]) -> _Line:
    """Fits peak bytes as a linear function of the batch size, conservatively: no measurement lies above the line."""
    sizes = [float(item.batch_size) for item in measured]
    peaks = [float(item.peak_bytes) for item in measured]
    if len(measured) == 1:
        return _Line(0.0, peaks[0] / sizes[0])  # without a fixed part, so that the prediction is never too low
    slope = float(np.polyfit(sizes, peaks, 1)[0])
    slope = max(slope, (peaks[-1] - peaks[-2]) / (sizes[-1] - sizes[-2]), 0.0)
    return _Line(max(peak - slope * size for size, peak in zip(sizes, peaks, strict=True)), slope)


def _resolve_limit(limit: MemoryLimit, device: torch.device) -> int:
    """The limit in bytes on ``device``."""
    if limit.size:
        return limit.size
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(limit.fraction * free)
    return int(limit.fraction * available_bytes())  # the GPU of a Mac shares the main memory
