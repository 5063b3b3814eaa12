"""The largest batch whose training step fits in memory.

On a GPU, steps are taken with ever larger batches until one does not fit. On a CPU that would push the machine into
swap or wake the OOM killer, so a few small batches are measured, each in a fresh process, and a line through their
peaks predicts the rest.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from marquee.training.assemble import build_model
from marquee.training.batch_trial import (
    BatchMeasurement,
    BatchRefusedError,
    DoesNotFitError,
    Trial,
    measure,
    measure_in_child,
)
from marquee.training.config import RunConfig
from marquee.training.data.manifest import Manifest
from marquee.training.device import resolve_device, resolve_precision
from marquee.training.errors import TrainingError
from marquee.training.memory import available_bytes
from marquee.training.memory_limit import MemoryLimit, mib
from marquee.training.models import check_model
from marquee.training.optim import check_optimizer
from marquee.training.progress import Progress
from marquee.training.records import read_data

logger = logging.getLogger(__name__)

_GROWTH = 0.1
"""Measuring ends when memory has grown by this share: more than an allocator's whims."""


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """What was measured and what follows from it."""

    largest: int
    """The largest power of two, up to the number of training images, that fits."""
    predicted: bool
    """True when ``largest`` comes from the line, False when its step was taken."""
    fastest: int
    """The measured batch size with the most images a second."""
    limit_bytes: int
    """What might be used."""
    base_bytes: int
    """What a process needs beside its batch."""
    bytes_per_image: int
    """What each image of a batch adds."""
    measured: tuple[BatchMeasurement, ...]
    """In the order of their sizes."""
    device: str
    precision: str
    """fp32, bf16 or fp16."""


def find_batch_size(config: RunConfig, data: Path, start: int, limit: MemoryLimit, progress: Progress) -> BatchSizes:
    """The largest batch of the configured model, optimiser, precision and memory layout that fits.

    ``--loop.accumulate`` counts as 1 and ``--loop.batch-size`` is not used. No file is written.

    Args:
        config: the run's configuration.
        data: a data set; it gives the classes, the channels and the upper end.
        start: a power of two, the first batch size to try.
        limit: how much memory may be used.
        progress: where progress goes.

    Raises:
        TrainingError: nothing fits, or what else happened and what to do.
    """
    device = resolve_device(config.loop.device)
    check_model(config.model)
    check_optimizer(config.optimizer)
    manifest, _ = read_data(config, data, progress)
    images = len(manifest.split("train"))
    if start > images:
        raise TrainingError(f"--from {start}: there are only {images} training images; lower it")
    trial = Trial(
        config=_for_trials(config, manifest),
        manifest=_one_image_a_class(manifest),
        limit=_resolve_limit(limit, device),
        device=str(device),
    )
    logger.info(f"{config.model.arch} on {device}, {mib(trial.limit)} may be used")
    find = _predict if device.type == "cpu" else _climb
    end = 1 << (images.bit_length() - 1)
    measured, largest = find(trial, start, end, progress)
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


def _for_trials(config: RunConfig, manifest: Manifest) -> RunConfig:
    # The channels follow from all images, of which a trial sees a few.
    _, image = build_model(config, manifest)
    return replace(
        config,
        image=replace(config.image, channels="grey" if image.channels == 1 else "rgb"),
        loop=replace(config.loop, accumulate=1, workers=0, progressive_resizing=1.0),
    )


def _one_image_a_class(manifest: Manifest) -> Manifest:
    return replace(manifest, records=tuple({record.label: record for record in manifest.split("train")}.values()))


def _predict(trial: Trial, start: int, end: int, progress: Progress) -> tuple[list[BatchMeasurement], int]:
    """Measures as few batches as make a line; returns them and the largest that fits by the line."""

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


def _climb(trial: Trial, start: int, end: int, progress: Progress) -> tuple[list[BatchMeasurement], int]:
    """Doubles the batch until it does not fit; returns all that fit and the last of them.

    It follows PyTorch's documentation of memory management; the tests have no GPU.
    """
    measured, _ = _measure_upwards(trial, start, end, 2, _measure_on_gpu, lambda *_: True, progress)
    return measured, measured[-1].batch_size


def _measure_upwards(
    trial: Trial,
    start: int,
    end: int,
    factor: int,
    measure_one: Callable[[Trial, int], BatchMeasurement],
    worth_trying: Callable[[list[BatchMeasurement], int], bool],
    progress: Progress,
) -> tuple[list[BatchMeasurement], int]:
    """Measures ``start`` and ever larger sizes up to ``end``; returns those that fit and the first that does not."""
    measured: list[BatchMeasurement] = []
    size, refused = start, end * 2
    while size <= end and worth_trying(measured, size):
        try:
            item = measure_one(trial, size)
        except BatchRefusedError as error:
            logger.info(f"batch of {size}: {error}")
            size *= 2
            continue
        except DoesNotFitError:
            item = None
        if item is None or item.peak_bytes > trial.limit:
            logger.info(f"batch of {size}: does not fit")
            refused = size
            break
        logger.info(f"batch of {size}: {mib(item.peak_bytes)}, {item.images_per_second:.1f} images/s")
        measured.append(item)
        size = end if size < end < size * factor else size * factor
    if not measured:
        raise TrainingError(
            f"not even a batch of {min(size, end)} fits in {mib(trial.limit)}; "
            "lower --from or --image.size, or choose a smaller --model.arch"
        )
    return measured, refused


def _measure_on_gpu(trial: Trial, batch_size: int) -> BatchMeasurement:
    device = resolve_device(trial.device)
    try:
        return measure(trial, batch_size)
    except RuntimeError as error:
        # torch.OutOfMemoryError is a RuntimeError; MPS raises a plain one.
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
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
    """Peak bytes as a function of the batch size, on the safe side: no measurement lies above it."""
    sizes = [float(item.batch_size) for item in measured]
    peaks = [float(item.peak_bytes) for item in measured]
    if len(measured) == 1:
        return _Line(0.0, peaks[0] / sizes[0])  # as if there were no fixed part: never too little
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
    return int(limit.fraction * available_bytes())  # a Mac's GPU shares the machine's memory
