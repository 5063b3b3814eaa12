"""Test accuracy beside the plain loop, at equal optimiser settings, data and epochs: speed must not cost accuracy.

Both train by AdamW with warm-up, cosine, weight decay, label smoothing and clipping, vary images by random resized crop
(and flip, for Fashion-MNIST), keep the epoch with the best validation accuracy, and read the test images once.

Example: python -m benchmarks.training.accuracy --data digits --seeds 3

Runs that are done are kept in WORK/accuracy; an interrupted benchmark goes on. Writes RESULTS/accuracy_DATA.json.
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks import ROOT
from benchmarks.kept import Values, kept
from benchmarks.results import RESULTS, Series, origin, write_result
from benchmarks.training.processes import NO_AUGMENTATION, run_json, supported_flags, train
from benchmarks.training.slices import Name, write_slice
from marquee.commands.cli import run

BASELINE = "torchvision-style fp32"
# Images of each class in train, val and test.
_COUNTS: dict[Name, tuple[int, int, int]] = {"digits": (120, 20, 34), "fashion-mnist": (500, 50, 500)}
# A mirrored digit is another sign.
_FLIP: dict[Name, float] = {"digits": 0.0, "fashion-mnist": 0.5}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all contenders share."""

    arch: str = "resnet10t"
    """Architecture, by timm's name."""
    size: int = 32
    """Side of the square input in pixels."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step."""
    lr: float = 2e-3
    """Peak learning rate."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = 1.0
    """Linear warm-up."""
    weight_decay: float = 0.05
    """Decoupled; not of biases and norms."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    clip_norm: float = 1.0
    """Largest norm of the gradients."""
    crop_scale: float = 0.8
    """Smallest share of the area that a random crop keeps."""
    workers: int = 0
    """Loader processes."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Arguments."""

    data: Name = "digits"
    """digits: 1,200 training images of scikit-learn's digits; fashion-mnist: 5,000 of its training images."""
    seeds: int = 3
    """Runs of each contender."""
    recipe: Recipe = Recipe()
    """Settings of all contenders."""
    work: Path = ROOT / ".benchmarks"
    """Folder for data, runs and kept values."""
    results: Path = RESULTS
    """Folder of the result file."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {self.seeds}")


def run_plain(recipe: Recipe, data: Path, flip: float, seed: int, _: Path) -> Values:
    """The plain loop."""
    flags = [text for name, value in asdict(recipe).items() for text in (f"--{name.replace('_', '-')}", str(value))]
    fixed = ["--optimizer", "adamw", "--measure", "--flip", str(flip), "--seed", str(seed)]
    answer = run_json(["-m", "benchmarks.training.plain", "--data", str(data), *flags, *fixed])
    return {"test_accuracy": answer["accuracy"]}


def run_marquee(
    recipe: Recipe, data: Path, flip: float, seed: int, out: Path, precision: str, resizing: float = 1.0
) -> Values:
    """This project, by its own command; ``resizing`` is the first images' share of their side."""
    shutil.rmtree(out, ignore_errors=True)
    flags = {
        **NO_AUGMENTATION,
        "model.arch": recipe.arch,
        "model.dropout": 0,
        "image.size": recipe.size,
        "image.channels": "rgb",  # what ImageFolder makes of grey images
        "augment.crop_scale": recipe.crop_scale,
        "augment.horizontal_flip": flip,
        "loss.label_smoothing": recipe.label_smoothing,
        "optimizer.lr": recipe.lr,
        "optimizer.min_lr": recipe.min_lr,
        "optimizer.warmup_epochs": recipe.warmup_epochs,
        "optimizer.weight_decay": recipe.weight_decay,
        "optimizer.clip_norm": recipe.clip_norm,
        "loop.epochs": recipe.epochs,
        "loop.batch_size": recipe.batch_size,
        "loop.workers": recipe.workers,
        "loop.patience": 0,
        "loop.device": "cpu",
        "loop.precision": precision,
        "loop.progressive_resizing": resizing,
        "loop.seed": seed,
    }
    metrics = train(data, out, supported_flags(flags))
    return {"test_accuracy": metrics["accuracy"]}


def compare(settings: Accuracy) -> Path:
    """Trains every contender with every seed and returns the result file.

    Raises:
        TrainingError: a run failed, or what is kept in the work folder is of other settings.
    """
    name = f"accuracy_{settings.data}"
    source = origin(name)
    work = settings.work.absolute() / "accuracy" / settings.data
    train_count, val_count, test_count = _COUNTS[settings.data]
    write_slice(work / "data", settings.data, train_count, val_count, test_count)
    flip = _FLIP[settings.data]
    recipe, data = settings.recipe, work / "data"
    contenders = {
        BASELINE: lambda seed, out: run_plain(recipe, data, flip, seed, out),
        "marquee fp32": lambda seed, out: run_marquee(recipe, data, flip, seed, out, "fp32"),
        "marquee bf16": lambda seed, out: run_marquee(recipe, data, flip, seed, out, "bf16"),
        "marquee bf16 progressive": lambda seed, out: run_marquee(recipe, data, flip, seed, out, "bf16", 0.5),
    }
    series: Series = {contender: {"test_accuracy": []} for contender in contenders}
    for seed in range(settings.seeds):
        for contender, measure in contenders.items():
            stem = f"{contender.replace(' ', '-')}-{seed}"
            values = kept(
                work / "kept" / f"{stem}.json",
                {**asdict(recipe), "flip": flip},
                lambda measure=measure, seed=seed, stem=stem: measure(seed, work / "runs" / stem),  # type: ignore[misc]
            )
            series[contender]["test_accuracy"].append(values["test_accuracy"])
            print(f"seed {seed}  {contender:28s} {values['test_accuracy']:.4f}", file=sys.stderr, flush=True)
    counts = {"train": train_count, "val": val_count, "test": test_count}
    described = {"data": settings.data, "images_of_each_class": counts, **asdict(recipe), "flip": flip}
    return write_result(settings.results, source.result(described, series, BASELINE))


def main() -> None:
    """Entry point."""
    settings = tyro.cli(Accuracy, prog="python -m benchmarks.training.accuracy", description=__doc__)
    path = compare(settings)
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
