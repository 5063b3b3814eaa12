"""Images a second of training, loader included, beside a plain torchvision-style loop and timm's own step.

The same network, photographs, batch, cores and kinds of augmentation for all. Rounds are interleaved: every contender
once, then every contender again, each in a process of its own, one at a time. The first epoch of each warms up.

Example: python -m benchmarks.training.throughput --rounds 5

Writes RESULTS/throughput.json after each round; then run: python -m benchmarks.render
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import ROOT
from benchmarks.results import RESULTS, Series, origin, write_result
from benchmarks.training.pace import warm_values
from benchmarks.training.photos import write_photos
from benchmarks.training.processes import NO_AUGMENTATION, read_epochs, run_json, supported_flags, train
from marquee.commands.cli import run
from marquee.training.errors import TrainingError

BASELINE = "torchvision-style fp32"
_BF16 = ("--loop.precision", "bf16", "--loop.channels-last")
_NO_CACHE = tuple(supported_flags({"loop.cache": "none"}))
_CACHE = tuple(supported_flags({"loop.cache": "decoded"}))
_PROGRESSIVE = tuple(supported_flags({"loop.progressive_resizing": 0.5}))
# Half of them have small images, three grow, two are whole.
_PROGRESSIVE_EPOCHS = 10
# Augmentation of the other contenders: random resized crop and flip.
_SAME_AUGMENTATION = supported_flags(
    {**NO_AUGMENTATION, "augment.crop_scale": 0.08, "augment.horizontal_flip": 0.5},
)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Arguments."""

    arch: str = "resnet18"
    """Architecture of all contenders, by timm's name."""
    size: int = 224
    """Side of the square input in pixels."""
    batch_size: int = 32
    """Images a step."""
    images: int = 256
    """Photographs in an epoch."""
    workers: int = 1
    """Loader processes of each contender."""
    rounds: int = 5
    """How often every contender runs."""
    epochs: int = 2
    """Epochs of each run; all but the first are measured."""
    contenders: tuple[str, ...] = ()
    """Names, as the table shows them; none: all."""
    work: Path = ROOT / ".benchmarks"
    """Folder for photographs and runs."""
    results: Path = RESULTS
    """Folder of the result file."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: expected at least 1, got {self.rounds}")
        if self.epochs < 2:
            raise ValueError(f"epochs: expected at least 2, got {self.epochs}; the first one warms up")
        if self.images < self.batch_size:
            raise ValueError(f"images: expected at least {self.batch_size}, which fill a batch, got {self.images}")


Values = dict[str, float]
Contender = Callable[[Throughput, Path], Values]
"""Runs once on the photographs of a folder."""


def module(name: str, *flags: str) -> Contender:
    """A contender that is a module beside this one."""

    def measure(settings: Throughput, photos: Path) -> Values:
        answer = run_json(["-m", f"benchmarks.training.{name}", "--data", str(photos), *_shared(settings), *flags])
        return warm_values(answer["epochs"])

    return measure


def marquee(*flags: str) -> Contender:
    """This project, by its own command."""
    return lambda settings, photos: warm_values(_epochs_of_marquee(settings, photos, flags, settings.epochs))


def progressive(*flags: str) -> Contender:
    """A whole run of growing images; its first epoch, which warms up, is taken to be as fast as the second."""
    flags += _PROGRESSIVE

    def measure(settings: Throughput, photos: Path) -> Values:
        first, second, *others = _epochs_of_marquee(settings, photos, flags, _PROGRESSIVE_EPOCHS)
        return warm_values([first, second, second, *others])

    return measure


def _epochs_of_marquee(
    settings: Throughput, photos: Path, flags: tuple[str, ...], epochs: int
) -> list[dict[str, float]]:
    out = settings.work.absolute() / "throughput"
    shutil.rmtree(out, ignore_errors=True)
    shared = (
        *("--model.arch", settings.arch, "--image.size", str(settings.size)),
        *("--loop.batch-size", str(settings.batch_size), "--loop.workers", str(settings.workers)),
        *("--loop.epochs", str(epochs), "--loop.patience", "0", "--loop.device", "cpu"),
    )
    train(photos, out, [*shared, *_SAME_AUGMENTATION, *flags])
    return read_epochs(out)


def contenders() -> dict[str, Contender]:
    """Name -> contender, in the order of a round; the cache is left out where this version has none."""
    found = {
        BASELINE: module("plain"),
        "timm fp32": module("with_timm"),
        "timm bf16 channels_last": module("with_timm", "--amp", "--channels-last"),
        "marquee fp32": marquee("--loop.precision", "fp32", *_NO_CACHE),
        "marquee bf16": marquee(*_BF16, *_NO_CACHE),
        "marquee bf16 compile": marquee(*_BF16, *_NO_CACHE, "--loop.compile"),
    }
    if _CACHE:
        found["marquee bf16 cache"] = marquee(*_BF16, *_CACHE)
        found["marquee bf16 cache compile"] = marquee(*_BF16, *_CACHE, "--loop.compile")
        if _PROGRESSIVE:
            found["marquee bf16 cache progressive"] = progressive(*_BF16, *_CACHE)
    return found


def _shared(settings: Throughput) -> list[str]:
    names = ("arch", "size", "batch_size", "workers", "epochs")
    return [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(settings, name)))]


def compare(settings: Throughput) -> Path:
    """Runs all rounds and returns the result file.

    Raises:
        TrainingError: a contender is unknown or failed.
    """
    known = contenders()
    chosen = settings.contenders or tuple(known)
    if unknown := [name for name in chosen if name not in known]:
        raise TrainingError(f"contender {unknown[0]!r}: unknown; one of {', '.join(known)}")
    source = origin("throughput")
    photos = settings.work.absolute() / f"photos-{settings.images}"
    write_photos(photos, settings.images, val=64)
    kept = ("arch", "size", "batch_size", "images", "workers", "epochs")
    described = {name: getattr(settings, name) for name in kept}
    series: Series = {name: {} for name in chosen}
    for number in range(1, settings.rounds + 1):
        for name in chosen:
            values = known[name](settings, photos)
            for metric, value in values.items():
                series[name].setdefault(metric, []).append(value)
            told = ", ".join(f"{metric} {value:.3g}" for metric, value in values.items())
            print(f"round {number}/{settings.rounds}  {name:28s} {told}", file=sys.stderr, flush=True)
        # After every round: what an interruption leaves is a result of fewer rounds.
        path = write_result(settings.results, source.result(described, series, BASELINE if BASELINE in chosen else ""))
    return path


def main() -> None:
    """Entry point."""
    settings = tyro.cli(Throughput, prog="python -m benchmarks.training.throughput", description=__doc__)
    path = compare(settings)
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
