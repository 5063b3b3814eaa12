"""What each regulariser is worth where images are few: train and test accuracy, and the gap between them.

The same run with none of augmentation, dropout, weight decay and label smoothing, with each of them alone, and with
all; a fixed number of epochs and no early stopping. Train accuracy is scripts/evaluate.py's on the training images as
they are, without augmentation. The strengths are those of overfitting.yaml.

Example: python -m benchmarks.training.overfitting --data digits --seeds 3

Runs that are done are kept in WORK/overfitting; an interrupted benchmark goes on. Writes RESULTS/overfitting_DATA.json.
Arguments that are not listed here, such as --loop.epochs 5, go to scripts/train.py.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
import yaml

from benchmarks import ROOT
from benchmarks.kept import Values, kept
from benchmarks.results import RESULTS, Series, origin, write_result
from benchmarks.training.processes import NO_AUGMENTATION, run_json, supported_flags, train
from benchmarks.training.slices import Name, write_slice
from marquee.commands.cli import run

OFF = {
    "augmentation": tuple(supported_flags(NO_AUGMENTATION)),
    "dropout": ("--model.dropout", "0"),
    "weight decay": ("--optimizer.weight-decay", "0"),
    "label smoothing": ("--loss.label-smoothing", "0"),
}
"""Regulariser -> the arguments of scripts/train.py that switch it off."""
VARIANTS: dict[str, tuple[str, ...]] = {"none": (), **{f"{name} only": (name,) for name in OFF}, "all": tuple(OFF)}
"""Variant -> the regularisers that stay on."""
_CONFIG = ROOT / "benchmarks" / "training" / "overfitting.yaml"
# Images of each class in train, val and test.
_COUNTS: dict[Name, tuple[int, int, int]] = {"digits": (20, 20, 100), "fashion-mnist": (200, 50, 500)}
# A mirrored digit is another sign.
_OF_DATA: dict[Name, tuple[str, ...]] = {"digits": ("--augment.horizontal-flip", "0"), "fashion-mnist": ()}


@dataclass(frozen=True, kw_only=True)
class Overfitting:
    """Arguments."""

    data: Name = "digits"
    """digits: 200 training images of scikit-learn's digits; fashion-mnist: 2,000 of its training images."""
    seeds: int = 3
    """Runs of each variant."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Variants to run."""
    work: Path = ROOT / ".benchmarks"
    """Folder for data, runs and kept values."""
    results: Path = RESULTS
    """Folder of the result file."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {self.seeds}")
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"variants: expected some of {', '.join(VARIANTS)}, got {unknown[0]!r}")
        if not self.variants:
            raise ValueError("variants: expected at least one")


def flags_of(variant: str, data: Name, extra: list[str]) -> list[str]:
    """Arguments of scripts/train.py; what switches a regulariser off comes last and wins."""
    off = [flag for name, flags in OFF.items() if name not in VARIANTS[variant] for flag in flags]
    return [*_OF_DATA[data], *extra, *off]


def train_and_evaluate(data: Path, out: Path, flags: list[str]) -> Values:
    """One run: accuracies and the gap as fractions, the test images' mean negative log-likelihood in nats."""
    shutil.rmtree(out, ignore_errors=True)
    test = train(data, out, ["--config", str(_CONFIG), *flags])
    fitted = run_json(["scripts/evaluate.py", str(out), "--data", str(data / "train"), "--seen", "--json"])
    return {
        "train_accuracy": fitted["accuracy"],
        "test_accuracy": test["accuracy"],
        "gap": fitted["accuracy"] - test["accuracy"],
        "test_nll": test["nll"],
    }


def compare(settings: Overfitting, extra: list[str]) -> Path:
    """Trains every variant with every seed and returns the result file.

    Raises:
        TrainingError: a run failed, or what is kept in the work folder is of other settings.
    """
    name = f"overfitting_{settings.data}"
    source = origin(name)
    work = settings.work.absolute() / "overfitting" / settings.data
    data = work / "data"
    train_count, val_count, test_count = _COUNTS[settings.data]
    write_slice(data, settings.data, train_count, val_count, test_count)
    config = yaml.safe_load(_CONFIG.read_text("utf-8"))
    series: Series = {variant: {} for variant in settings.variants}
    for seed in range(settings.seeds):
        for variant in settings.variants:
            flags = [*flags_of(variant, settings.data, extra), "--loop.seed", str(seed)]
            stem = f"{variant.replace(' ', '-')}-{seed}"
            values = kept(
                work / "kept" / f"{stem}.json",
                {"config": config, "flags": flags},
                lambda flags=flags, stem=stem: train_and_evaluate(data, work / "runs" / stem, flags),  # type: ignore[misc]
            )
            for metric, value in values.items():
                series[variant].setdefault(metric, []).append(value)
            told = ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())
            print(f"seed {seed}  {variant:22s} {told}", file=sys.stderr, flush=True)
    counts = {"train": train_count, "val": val_count, "test": test_count}
    described = {"data": settings.data, "images_of_each_class": counts, "config": config, "arguments": extra}
    baseline = "none" if "none" in series else ""
    return write_result(settings.results, source.result(described, series, baseline))


def main() -> None:
    """Entry point."""
    settings, extra = tyro.cli(
        Overfitting, prog="python -m benchmarks.training.overfitting", description=__doc__, return_unknown_args=True
    )
    path = compare(settings, extra)
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
