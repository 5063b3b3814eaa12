"""The finders, the options of the loop, fp16 with its scaler, and what goes wrong in a loop."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks.gpu.differences import largest_difference
from benchmarks.gpu.endings import report_endings
from benchmarks.gpu.material import digits, quick_config
from benchmarks.gpu.short_run import ShortRun, fit
from benchmarks.gpu.step import Report, Site
from marquee.training.core.checkpoint import AVERAGE, WEIGHTS
from marquee.training.core.device import resolve_device
from marquee.training.core.errors import CheckpointError
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tools.batch_size_finder import find_batch_size
from marquee.training.tools.lr_finder import find_learning_rate
from marquee.training.tools.memory_limit import MemoryLimit
from marquee.training.tools.rate_range import RateRange

_QUIET = Progress(quiet=True)
_MEMORY = 4 * 2**30
"""Bytes that the batch size finder may have on a GPU: few enough that it meets the end of the memory."""
_LEFT = 256
"""MiB that may stay allocated: the workspaces of cuBLAS have up to 64."""

OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "EMA": {"loop": {"ema": 0.9}},
    "mixup": {"augment": {"mixup": 0.2}},
    "CutMix": {"augment": {"cutmix": 1.0}},
    "4 parts of a step": {"loop": {"accumulate": 4}},
}
"""Name of a row -> the settings of its run."""


def run(site: Site, report: Report) -> None:
    """Each part is a short run on the digits; one that fails is a row."""
    data = digits(site) if site.full else digits(site) / "test"  # 176 images
    with report.guard("find_batch_size"):
        _batch_size(site, report, data)
    with report.guard("find_lr"):
        _learning_rate(site, report, data)
    for name, sections in OPTIONS.items():
        with report.guard(name):
            _option(site, report, data, name, sections)
    if site.full:
        with report.guard("fp16"):
            _half(site, report, data)
    else:
        report.skip("fp16", "needs CUDA")
    report_endings(site, report, _config(site, loop={"epochs": 3 if site.full else 2}), data)


def _config(site: Site, **sections: Mapping[str, Any]) -> ImageRunConfig:
    """Short runs of a network that is small on the CPU."""
    sizes = {"epochs": 4, "batch_size": 64} if site.full else {"epochs": 2, "batch_size": 16}
    loop = sizes | dict(sections.pop("loop", {}))
    model = {} if site.full else {"arch": "cnn4_w8"}
    return quick_config(site, model=model, loop=loop, **sections)


def _batch_size(site: Site, report: Report, data: Path) -> None:
    """On a GPU with an upper limit for this process, so that the search ends as on a card of that size."""
    if not site.full:
        if importlib.util.find_spec("psutil") is None:
            report.skip("find_batch_size", "needs psutil on a CPU")
            return
        found = find_batch_size(_config(site), data, 32, MemoryLimit(), _QUIET)
        report.row("find_batch_size", found.largest, "images", right=found.largest >= 32, wanted="32 or more fit")
        return
    device = resolve_device(site.device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, _MEMORY / total), device)
    try:
        config = _config(site, image={"size": 224})
        found = find_batch_size(config, data, 16, MemoryLimit(size=2 * _MEMORY), _QUIET)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    ended = 2 * found.largest <= 1024 and not found.predicted
    wanted = f"the search ends where {_MEMORY >> 30} GiB do"
    note = f"fastest: {found.fastest} images; measured {len(found.measured)} sizes"
    report.row("find_batch_size", found.largest, "images", right=ended, wanted=wanted, note=note)
    report.row("memory of an image, 224 px", round(found.bytes_per_image / 2**20, 1), "MiB")
    left = torch.cuda.memory_allocated(device) / 2**20
    report.row("left by find_batch_size", round(left, 1), "MiB", right=left < _LEFT, wanted="workspaces alone")


def _learning_rate(site: Site, report: Report, data: Path) -> None:
    steps = 100 if site.full else 20
    curve = find_learning_rate(_config(site), data, RateRange(start=1e-5, stop=1.0, steps=steps), _QUIET)
    finite = len(curve.losses) > 10 and all(map(math.isfinite, curve.losses))
    report.row("find_lr", curve.suggestion, right=finite, wanted="finite losses", note=curve.note)


def _option(site: Site, report: Report, data: Path, name: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    result = _fit(site, report, data, name, sections)
    if name == "EMA":
        last = result.trainer.store.find("last")
        if last is None:
            raise CheckpointError(f"{result.folder.checkpoints}: no checkpoint")
        average, weights = (safetensors.torch.load_file(last / file) for file in (AVERAGE, WEIGHTS))
        difference = largest_difference(average, weights)
        right = 0 < difference < math.inf
        report.row("EMA, from the weights", difference, right=right, wanted="another average, finite")


def _fit(site: Site, report: Report, data: Path, name: str, sections: Mapping[str, Mapping[str, Any]]) -> ShortRun:
    result = fit(_config(site, **sections), data, site.work / name.replace(" ", "-"))
    accuracy = round(100 * result.accuracy, 1)
    report.row(name, accuracy, "% accuracy", right=result.learns, wanted="the loss falls", note=result.course)
    return result


def _half(site: Site, report: Report, data: Path) -> None:
    result = _fit(site, report, data, "fp16", {"loop": {"precision": "fp16"}})
    scale = float(result.trainer.scaler.get_scale())
    right = result.trainer.scaler.is_enabled() and 1 <= scale < math.inf
    report.row("fp16, scale of the loss", scale, right=right, wanted="1 or more, finite")
