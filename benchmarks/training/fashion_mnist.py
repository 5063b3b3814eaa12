"""Train on Fashion-MNIST by scripts/train.py, and record the accuracy on its test images and the time that it took.

The test images are read for their answers once, by the bundle's evaluation after training; validation images are a
part of the training images. To choose settings, add --tune: that data set is made of the training images alone.

Example: python -m benchmarks.training.fashion_mnist

Tuning: python -m benchmarks.training.fashion_mnist --tune --out .benchmarks/runs/a --optimizer.lr 2e-3

Arguments that are not listed here, such as --loop.epochs 5 or --resume, go to scripts/train.py.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
import yaml

from benchmarks import ROOT
from benchmarks.results import RESULTS, origin, write_result
from benchmarks.training.fashion import SOURCE, write_fashion_mnist, write_tuning_set
from benchmarks.training.processes import read_epochs, train
from marquee.commands.cli import run
from marquee.training.config import CONFIG_FILE

_CONFIGS = ROOT / "benchmarks" / "training"


@dataclass(frozen=True, kw_only=True)
class FashionMnist:
    """Arguments."""

    data: Path = ROOT / ".benchmarks"
    """Folder for the data sets; they are written once."""
    source: Path = SOURCE
    """Folder of the four *-ubyte.gz files."""
    out: Path | None = None
    """Folder of the run, which must be new; none: .benchmarks/runs/NAME."""
    long: bool = False
    """Train by fashion_mnist_long.yaml instead of fashion_mnist.yaml."""
    tune: bool = False
    """Leave the test images out altogether and measure on 10,000 training images that are held out."""
    results: Path = RESULTS
    """Folder of the result file; tuning keeps its result in --out."""
    json: bool = False
    """Print the result as one JSON object."""


def measure(settings: FashionMnist, extra: list[str]) -> Path:
    """Trains and returns the result file.

    Args:
        settings: this command's arguments.
        extra: arguments for scripts/train.py.

    Raises:
        TrainingError: the data set is not installed, or the run failed.
    """
    name = "fashion_mnist_long" if settings.long else "fashion_mnist"
    source = origin(name)
    data = settings.data.absolute() / ("fashion-mnist-tune" if settings.tune else "fashion-mnist")
    (write_tuning_set if settings.tune else write_fashion_mnist)(data, settings.source)
    run_name = f"{name}_tune" if settings.tune else name
    out = (settings.out or ROOT / ".benchmarks" / "runs" / run_name).absolute()
    started = time.monotonic()
    metrics = train(data, out, ["--config", str(_CONFIGS / f"{name}.yaml"), *extra], show=True)
    wall = time.monotonic() - started
    epochs = read_epochs(out)
    values = {
        "test_accuracy": metrics["accuracy"],
        "val_accuracy": max(epoch["val_accuracy"] for epoch in epochs),
        "epochs": float(len(epochs)),
        "train_minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
    }
    if "--resume" not in extra:
        # The clock of a resumed run knows only its last part.
        values["wall_minutes"] = wall / 60
    settings_used = {
        "measured_on": f"{metrics['images']} {'held-out training' if settings.tune else 'test'} images, once",
        "config": yaml.safe_load((out / CONFIG_FILE).read_text("utf-8")),
    }
    result = source.result(settings_used, {name: {metric: [value] for metric, value in values.items()}})
    return write_result(out if settings.tune else settings.results, result)


def main() -> None:
    """Entry point."""
    settings, extra = tyro.cli(
        FashionMnist, prog="python -m benchmarks.training.fashion_mnist", description=__doc__, return_unknown_args=True
    )
    path = measure(settings, extra)
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
