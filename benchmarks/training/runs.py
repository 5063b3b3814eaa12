"""Runs one contender at a time, each in a process of its own: two OpenMP pools at once collide."""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.results import Values
from marquee.training.core.errors import TrainingError
from marquee.training.core.run_folder import RunFolder

RESULTS = ROOT / "benchmarks" / "training" / "results"
NO_AUGMENTATION: Mapping[str, object] = {
    "augment.crop_scale": 1,
    "augment.horizontal_flip": 0,
    "augment.vertical_flip": 0,
    "augment.rotation": 0,
    "augment.zoom": 0,
    "augment.color": 0,
    "augment.erasing": 0,
    "augment.shift": 0,
    "augment.policy": "none",
    "augment.mixup": 0,
    "augment.cutmix": 0,
}
"""Every kind of augmentation of this project, switched off."""


def flags(values: Mapping[str, object]) -> list[str]:
    """``{"augment.crop_scale": 1}`` -> ``["--augment.crop-scale", "1"]``; True is a flag alone."""
    words = []
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def run_json(arguments: Sequence[str], show: bool = False) -> dict[str, Any]:
    """Runs ``python -m ARGUMENTS`` in the project's folder; returns the JSON object that is its last line.

    Raises:
        TrainingError: it failed; the message ends with its last line, unless that was shown.
    """
    errors, pipe = None if show else subprocess.PIPE, subprocess.PIPE
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=errors, text=True, check=False)
    if done.returncode:
        last = (done.stderr or "its message is above").strip().splitlines()[-1:]
        raise TrainingError(f"{' '.join(arguments)}: ended with code {done.returncode}: {''.join(last)}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def train(data: Path, out: Path, arguments: Sequence[str], show: bool = False) -> dict[str, Any]:
    """Trains by this project's own command and returns the metrics of its test images; the paths are absolute."""
    return run_json(["marquee", "train", "--data", str(data), "--out", str(out), "--json", *arguments], show)


def read_epochs(run: Path) -> list[Values]:
    """The metrics of each epoch of a run."""
    return [json.loads(line) for line in RunFolder(run).metrics.read_text("utf-8").splitlines()]


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What all training loops are told."""

    arch: str = "resnet18"
    """Architecture, by timm's name."""
    size: int = 224
    """Side of the square input in pixels."""
    batch_size: int = 32
    """Images a step."""
    workers: int = 1
    """Loader processes."""
    epochs: int = 2
    """Passes over the training images."""


class Pace:
    """Counts the images and seconds of each epoch of another loop as ``metrics.jsonl`` has them."""

    def __init__(self) -> None:
        self.epochs: list[Values] = []

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Passes on an epoch's batches (pixels, labels)."""
        images, waited = 0, 0.0
        started = waiting = time.monotonic()
        for batch in loader:
            waited += time.monotonic() - waiting
            yield batch
            images += len(batch[1])
            waiting = time.monotonic()
        waited += time.monotonic() - waiting
        seconds = time.monotonic() - started
        self.epochs.append({"images_per_second": images / seconds, "seconds": seconds, "data_seconds": waited})


def warm_values(epochs: Sequence[Values]) -> Values:
    """``images_per_second`` and ``data_share``, the part of the time that the step waited for its loader.

    Args:
        epochs: ``images_per_second``, ``seconds`` and ``data_seconds`` of each; the first one warms up.
    """
    warm = epochs[1:]
    seconds = sum(epoch["seconds"] for epoch in warm)
    return {
        "images_per_second": sum(epoch["images_per_second"] * epoch["seconds"] for epoch in warm) / seconds,
        "data_share": sum(epoch["data_seconds"] for epoch in warm) / seconds,
    }
