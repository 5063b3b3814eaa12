"""Test accuracy of runs that are repeated with several seeds: beside a plain loop, or with single regularisers.

By default the plain loop and this project train by AdamW with equal settings, data and epochs: speed must not cost
accuracy. Both keep the epoch with the best validation accuracy, and read the test images once.

With --regularisers this project alone trains where images are few: with none of augmentation, dropout, weight decay and
label smoothing, with each of them alone, and with all; train accuracy is that of the training images as they are.

Example: python -m benchmarks.training.accuracy --data digits --seeds 3

Runs that are done are kept; an interrupted benchmark goes on.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

from benchmarks import WORK, main, tell
from benchmarks.results import Series, Values, add, kept, origin, write_result
from benchmarks.training.data import Name, write_slice
from benchmarks.training.runs import NO_AUGMENTATION, RESULTS, flags, run_json, train
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.outputs.classification import Prediction

PLAIN = "torchvision-style fp32"
# What the plain loop and this project share: the plain loop's name of a setting -> this project's, and the value.
_SHARED: dict[str, tuple[str, object]] = {
    "arch": ("model.arch", "resnet10t"),
    "size": ("image.size", 32),
    "epochs": ("loop.epochs", 15),
    "batch_size": ("loop.batch_size", 64),
    "lr": ("optimizer.lr", 2e-3),
    "min_lr": ("optimizer.min_lr", 1e-5),
    "warmup_epochs": ("optimizer.warmup_epochs", 1.0),
    "weight_decay": ("optimizer.weight_decay", 0.05),
    "label_smoothing": ("loss.label_smoothing", 0.1),
    "clip_norm": ("optimizer.clip_norm", 1.0),
    "crop_scale": ("augment.crop_scale", 0.8),
    "workers": ("loop.workers", 0),
}
_OURS = {
    **NO_AUGMENTATION,
    "model.dropout": 0,
    "image.channels": "rgb",  # what ImageFolder makes of grey images
    "loop.patience": 0,
    "loop.device": "cpu",
    **dict(_SHARED.values()),
}
PRECISIONS: dict[str, dict[str, object]] = {
    "marquee fp32": {"loop.precision": "fp32"},
    "marquee bf16": {"loop.precision": "bf16"},
    "marquee bf16 progressive": {"loop.precision": "bf16", "loop.progressive_resizing": 0.5},
}
"""This project's rows beside the plain loop."""
_ALL = "benchmarks/training/overfitting.yaml"
OFF: dict[str, Mapping[str, object]] = {
    "augmentation": NO_AUGMENTATION,
    "dropout": {"model.dropout": 0},
    "weight decay": {"optimizer.weight_decay": 0},
    "label smoothing": {"loss.label_smoothing": 0},
}
"""Regulariser -> what switches it off."""
VARIANTS: dict[str, tuple[str, ...]] = {"none": (), **{f"{name} only": (name,) for name in OFF}, "all": tuple(OFF)}
"""Variant -> the regularisers that stay on."""
# Images of each class in train, val and test: beside the plain loop, and where they are few.
_MANY: dict[Name, tuple[int, int, int]] = {"digits": (120, 20, 34), "fashion-mnist": (500, 50, 500)}
_FEW: dict[Name, tuple[int, int, int]] = {"digits": (20, 20, 100), "fashion-mnist": (200, 50, 500)}
# A mirrored digit is another sign.
_FLIP: dict[Name, float] = {"digits": 0.0, "fashion-mnist": 0.5}


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Arguments."""

    data: Name = "digits"
    """Scikit-learn's digits, or Fashion-MNIST's training images; slices of them."""
    regularisers: bool = False
    """Compare regularisers, not loops."""
    seeds: int = 3
    """Runs of each contender."""
    epochs: Optional[int] = None
    """Of each run; none: 15, and 40 for regularisers."""
    work: Path = WORK
    """Folder for data, runs and kept values."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {self.seeds}")


def variant_settings(variant: str, data: Name) -> dict[str, object]:
    """Settings of a variant of the regularisers; what switches one off wins."""
    settings: dict[str, object] = {"config": _ALL, "augment.horizontal_flip": _FLIP[data]}
    for name, off in OFF.items():
        settings |= {} if name in VARIANTS[variant] else off
    return settings


def _plain(settings: Mapping[str, object], data: Path, out: Path, seed: int) -> Values:
    arguments = ["benchmarks.training.plain", "--data", str(data), "--optimizer", "adamw", "--measure"]
    return {"test_accuracy": run_json([*arguments, *flags({**settings, "seed": seed})])["accuracy"]}


def _marquee(settings: Mapping[str, object], data: Path, out: Path, seed: int, fitted: bool = False) -> Values:
    """Accuracies and, of the ``fitted`` training images, the gap, as fractions; the test images' mean loss in nats."""
    shutil.rmtree(out, ignore_errors=True)
    test = train(data, out, flags({**settings, "loop.seed": seed}))
    if not fitted:
        return {"test_accuracy": test["accuracy"]}
    right, accuracy = _accuracy(out / "bundle", data / "train"), test["accuracy"]
    return {"train_accuracy": right, "test_accuracy": accuracy, "gap": right - accuracy, "test_nll": test["nll"]}


def _accuracy(bundle: Path, folder: Path) -> float:
    """Of the bundle's answers for class folders."""
    files = sorted(folder.rglob("*.png"))
    answers = Predictor.load(bundle).predict([file.read_bytes() for file in files])
    labelled = zip(answers, files, strict=True)
    return sum(isinstance(one, Prediction) and one.label == file.parent.name for one, file in labelled) / len(files)


def contenders(settings: Accuracy) -> dict[str, tuple[Callable[..., Values], dict[str, object]]]:
    """Name -> how it runs, and its settings; the first one is what the others are compared with."""
    epochs: dict[str, object] = {} if settings.epochs is None else {"epochs": settings.epochs}
    ours = {f"loop.{name}": value for name, value in epochs.items()}
    if settings.regularisers:
        fitted = partial(_marquee, fitted=True)
        return {name: (fitted, variant_settings(name, settings.data) | ours) for name in VARIANTS}
    shared, flip = {name: value for name, (_, value) in _SHARED.items()}, _FLIP[settings.data]
    rows: dict[str, tuple[Callable[..., Values], dict[str, object]]] = {
        PLAIN: (_plain, {**shared, "flip": flip, **epochs})
    }
    for name, precision in PRECISIONS.items():
        rows[name] = _marquee, {**_OURS, "augment.horizontal_flip": flip, **precision, **ours}
    return rows


def measure(settings: Accuracy) -> Path:
    """Trains every contender with every seed and returns the result file.

    Raises:
        TrainingError: a run failed, or what is kept in the work folder is of other settings.
    """
    name = f"{'overfitting' if settings.regularisers else 'accuracy'}_{settings.data}"
    source, work = origin(name), settings.work.absolute() / name
    images = (_FEW if settings.regularisers else _MANY)[settings.data]
    counts = dict(zip(("train", "val", "test"), images, strict=True))
    write_slice(work / "data", settings.data, counts)
    chosen, series = contenders(settings), Series()
    for seed in range(settings.seeds):
        for contender, (how, used) in chosen.items():
            stem = f"{contender.replace(' ', '-')}-{seed}"
            run = partial(how, used, work / "data", work / "runs" / stem, seed)
            values = kept(work / "kept" / f"{stem}.json", used, run)
            add(series, contender, values)
            told = ", ".join(f"{metric} {value:.4f}" for metric, value in values.items())
            tell(f"seed {seed}  {contender:28s} {told}")
    used_by = {contender: used for contender, (_, used) in chosen.items()}
    described = {"data": settings.data, "images_of_each_class": counts, "contenders": used_by}
    return write_result(settings.results, source, described, series, next(iter(chosen)))


if __name__ == "__main__":
    main(measure, Accuracy, __doc__)
