"""Measure a run's bundle on a data set, through the preprocessing and the program that are served.

Example: python scripts/evaluate.py runs/photos --data photos

DATA has the layouts of train.py; where it names a test split, that one is measured, otherwise all of
it: the images that the run was trained on, too, when DATA holds them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro
from _cli import run

from handlers.predictor import Predictor
from serving.archive import find_bundle
from training.data.loading import resolve_workers
from training.data.scan import scan
from training.device import resolve_device
from training.evaluation import measure, predict_records, write_predictions
from training.progress import Progress


def evaluate(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN")],
    data: Path,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    predictions: Path | None = None,
    device: str = "cpu",
) -> None:
    """Prints the metrics.

    Args:
        run_folder: A run of train.py, or a bundle.
        data: Folder or table of labelled images.
        json: Print one JSON object, with the confusion matrix.
        predictions: Write every image's probabilities to this CSV file.
        device: cpu, cuda, cuda:1 or mps.
    """
    progress = Progress()
    predictor = Predictor.load(find_bundle(run_folder), str(resolve_device(device)))
    manifest, rejected = scan(data, predictor.spec.image.max_pixels, progress)
    records = manifest.split("test") or list(manifest.records)
    probabilities = predict_records(predictor, records, resolve_workers(-1, len(records)), progress)
    metrics = {
        **measure(predictor, records, probabilities),
        "left_out": [dataclasses.asdict(item) for item in rejected],
    }
    if predictions is not None:
        write_predictions(predictions, predictor.spec.labels, records, probabilities)
    _print(metrics, predictor.spec.labels, as_json=json)


def _print(metrics: dict[str, object], labels: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**metrics, "labels": labels}))
        return
    for name in ("images", "accuracy", "balanced_accuracy", "nll", "ece"):
        value = metrics[name]
        print(f"{name:18s} {value:.4f}" if isinstance(value, float) else f"{name:18s} {value}")
    print("confusion matrix (rows: truth, columns: prediction)")
    for label, row in zip(labels, metrics["confusion_matrix"], strict=True):  # type: ignore[call-overload]
        print(f"  {label:>16s} " + " ".join(f"{count:5d}" for count in row))
    for item in metrics["left_out"]:  # type: ignore[attr-defined]
        print(f"left out: {item['path']}: {item['reason']}")


def main() -> None:
    """Entry point."""
    tyro.cli(evaluate, description=__doc__)


if __name__ == "__main__":
    run(main)
