"""Measure a run's bundle on a data set, through the preprocessing and the program that are served.

Example: marquee evaluate runs/photos --data photos

DATA has the layouts of marquee train; where it names a test split, that one is measured, otherwise all of
it: the images that the run was trained on, too, when DATA holds them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible

_SHOWN = (
    "images",
    "accuracy",
    "balanced_accuracy",
    "f1_micro",
    "f1_macro",
    "mean_average_precision",
    "auroc",
    "nll",
    "brier",
    "ece",
)


def evaluate(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    data: Path,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    predictions: Optional[Path] = None,
    device: str = "cpu",
    tta: Literal["none", "flip", "flip-shift"] = "none",
    variant: str = "auto",
) -> None:
    """Prints the metrics.

    Args:
        run_folder: A run of marquee train, or a bundle.
        data: Folder or table of labelled images.
        json: Print one JSON object, with the confusion matrix.
        predictions: Write every image's probabilities to this CSV file.
        device: cpu, cuda, cuda:1 or mps.
        tta: Test-time augmentation: average each image with its mirror image (flip), and with both moved by a few
            pixels each way (flip-shift). Only to see what it would gain: what is served is the image alone.
        variant: Which one of the bundle to measure; auto: the one that this machine would serve.
    """
    with interruptible():
        from marquee.handlers.predictor import Predictor
        from marquee.serving.archive import find_bundle
        from marquee.training.data.loading import resolve_workers
        from marquee.training.data.scan import scan
        from marquee.training.device import resolve_device
        from marquee.training.evaluation import measure, predict_outputs, write_predictions
        from marquee.training.progress import Progress
    progress = Progress()
    predictor = Predictor.load(
        find_bundle(run_folder), str(resolve_device(device)), None if variant == "auto" else variant
    )
    manifest, rejected = scan(data, predictor.spec.image.max_pixels, progress)
    records = manifest.split("test") or list(manifest.records)
    outputs = predict_outputs(predictor, records, resolve_workers(-1, len(records)), progress, tta)
    metrics = {
        **measure(predictor, records, outputs),
        "tta": tta,
        "variant": predictor.variant.name,
        "left_out": [dataclasses.asdict(item) for item in rejected],
    }
    if predictions is not None:
        write_predictions(predictions, predictor, records, outputs)
    _print(metrics, predictor.spec.labels, as_json=json)


def _print(metrics: dict[str, Any], labels: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**metrics, "labels": labels}))
        return
    for name in _SHOWN:
        if name not in metrics:
            continue
        value = metrics[name]
        print(f"{name:18s} {value:.4f}" if isinstance(value, float) else f"{name:18s} {value}")
    print(f"{'variant':18s} {metrics['variant']}")
    low, high = metrics["accuracy_interval"]
    print(f"{'95 % interval':18s} {low:.4f} to {high:.4f}")
    if abstain := metrics.get("abstain"):
        wrong = "none" if abstain["error"] is None else f"{abstain['error']:.4f}"
        print(f"{'answered':18s} {abstain['accepted']:.4f}, of which wrong {wrong}")
    if "ood" in metrics:
        print(f"{'unfamiliar':18s} {metrics['ood']['flagged']:.4f}")
    print(f"{'class':>18s} images precision recall     f1")
    for row in metrics["per_class"]:
        shares = (row[name] for name in ("precision", "recall", "f1"))
        print(f"{row['label']:>18s} {row['images']:6d}    " + " ".join(_share(value) for value in shares))
    if "confusion_matrix" in metrics:
        print("confusion matrix (rows: truth, columns: prediction)")
        for label, row in zip(labels, metrics["confusion_matrix"], strict=True):
            print(f"  {label:>16s} " + " ".join(f"{count:5d}" for count in row))
    for item in metrics["left_out"]:
        print(f"left out: {item['path']}: {item['reason']}")


def _share(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:.4f}"


def main() -> None:
    """Entry point."""
    parse_arguments("evaluate", evaluate, __doc__)
