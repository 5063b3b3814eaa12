"""Train on Fashion-MNIST by marquee train, and record the accuracy on its test images and the time that it took.

The test images are read for their answers once, by the bundle's evaluation after training; validation images are a
part of the training images. To choose settings, add --tune: that data set is made of the training images alone.

Example: python -m benchmarks.training.fashion_mnist

Tuning: python -m benchmarks.training.fashion_mnist --tune --out .benchmarks/runs/a --optimizer.lr 2e-3

Arguments that are not listed here, such as --loop.epochs 5 or --resume, go to marquee train.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import tyro
import yaml

from benchmarks import WORK, program
from benchmarks.results import origin, write_result
from benchmarks.training.data import SOURCE, write_fashion_mnist, write_tuning_set
from benchmarks.training.runs import RESULTS, read_epochs, train
from marquee.commands.cli import run
from marquee.training.core.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class FashionMnist:
    """Arguments."""

    data: Path = WORK
    """Folder for the data sets; they are written once."""
    source: Path = SOURCE
    """Folder of the four *-ubyte.gz files."""
    out: Optional[Path] = None
    """Folder of the run, which must be new; none: .benchmarks/runs/NAME."""
    long: bool = False
    """Train by fashion_mnist_long.yaml instead of fashion_mnist.yaml."""
    tune: bool = False
    """Leave the test images out altogether and measure on 10,000 training images that are held out."""
    results: Path = RESULTS
    """Folder of the result file; tuning keeps its result in --out."""


def measure(settings: FashionMnist, extra: list[str]) -> Path:
    """Trains, with ``extra`` arguments of marquee train, and returns the result file."""
    name = "fashion_mnist_long" if settings.long else "fashion_mnist"
    source = origin(name)
    data = settings.data.absolute() / ("fashion-mnist-tune" if settings.tune else "fashion-mnist")
    (write_tuning_set if settings.tune else write_fashion_mnist)(data, settings.source)
    out = (settings.out or WORK / "runs" / (f"{name}_tune" if settings.tune else name)).absolute()
    config = Path(__file__).with_name(f"{name}.yaml")
    started = time.monotonic()
    metrics = train(data, out, ["--config", str(config), *extra], show=True)
    wall, epochs = time.monotonic() - started, read_epochs(out)
    values = {
        "test_accuracy": metrics["accuracy"],
        "val_accuracy": max(epoch["val_accuracy"] for epoch in epochs),
        "epochs": float(len(epochs)),
        "train_minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
        # The clock of a resumed run knows only its last part.
        **({} if "--resume" in extra else {"wall_minutes": wall / 60}),
    }
    used = {
        "measured_on": f"{metrics['images']} {'held-out training' if settings.tune else 'test'} images, once",
        "config": yaml.safe_load(RunFolder(out).config.read_text("utf-8")),
    }
    series = {name: {metric: [value] for metric, value in values.items()}}
    return write_result(out if settings.tune else settings.results, source, used, series)


def main() -> None:
    """Entry point."""
    print(measure(*tyro.cli(FashionMnist, prog=program(), description=__doc__, return_unknown_args=True)))


if __name__ == "__main__":
    run(main)
