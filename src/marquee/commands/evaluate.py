"""Measure a run's bundle on a data set, through the preprocessing and the program that are served.

Example: marquee evaluate runs/photos --data photos

DATA is laid out as for training; where it names a test split, that one is measured, otherwise all of it. Images
that the run was trained on, or that chose its best epoch, are left out, wherever they lie: --seen measures them, too.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible

_SHOWN = {
    "images": "that were measured",
    "accuracy": "share of the images that are answered rightly",
    "balanced_accuracy": "mean recall of the classes: a rare class counts like a common one",
    "f1_micro": "precision and recall in one number, over all labels together",
    "f1_macro": "the same for each label, then the mean",
    "mean_average_precision": "how well each label's images are ranked before the others; 1 is perfect",
    "auroc": "how often an image with a label is ranked above one without; 0.5 is chance",
    "nll": "negative log-likelihood in nats: punishes sure and wrong answers; lower is better",
    "brier": "squared error of the probabilities; lower is better",
    "ece": "expected calibration error: how far probabilities lie from the share of right answers",
}
"""Metric -> what it means, in the order in which they are shown."""


def evaluate(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    data: Path,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    predictions: Optional[Path] = None,
    device: str = "cpu",
    tta: Literal["none", "flip", "flip-shift"] = "none",
    variant: str = "auto",
    seen: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
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
        seen: Measure the images, too, that the run was trained on or that chose its best epoch: that says how well it
            remembers, not how well it will do on others.
    """
    with interruptible():
        from marquee.handlers.predictor import Predictor
        from marquee.serving.archive import find_bundle
        from marquee.training import evaluation
        from marquee.training.device import resolve_device
    bundle = find_bundle(run_folder)
    predictor = Predictor.load(bundle, str(resolve_device(device)), None if variant == "auto" else variant)
    measured = evaluation.evaluate(predictor, bundle, data, seen=seen, tta=tta)
    if predictions is not None:
        evaluation.write_predictions(predictions, predictor, measured.records, measured.outputs)
    _print(measured.metrics, predictor.spec.labels, as_json=json)


def _print(metrics: dict[str, Any], labels: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**metrics, "labels": labels}))
        return
    for name, meaning in _SHOWN.items():
        if name in metrics:
            value = metrics[name]
            _row(name, f"{value:.4f}" if isinstance(value, float) else str(value), meaning)
    _row("seen", *_seen(metrics["seen"]))
    _row("variant", metrics["variant"], "of the bundle, that was measured")
    low, high = metrics["accuracy_interval"]
    _row("95 % interval", f"{low:.4f} to {high:.4f}", "of the accuracy: what so few images can say")
    if abstain := metrics.get("abstain"):
        wrong = "none" if abstain["error"] is None else f"{abstain['error']:.4f}"
        _row("answered", f"{abstain['accepted']:.4f}, of which wrong {wrong}", "the others are too unsure to be given")
    if "ood" in metrics:
        _row("unfamiliar", f"{metrics['ood']['flagged']:.4f}", "share of images unlike those of the training")
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


def _row(name: str, value: str, meaning: str) -> None:
    print(f"{name:22s} {value:16s} {meaning}")


def _seen(seen: dict[str, Any] | None) -> tuple[str, str]:
    """How many images the run knew, and what was done about it."""
    if seen is None:
        return "unknown", "no run lies around this bundle: all images were measured, whether it knew them or not"
    known = f"{seen['train']} + {seen['val']}"
    if not seen["train"] + seen["val"]:
        return known, "none of the images was in the run's training or chose its best epoch"
    done = "measured with the others" if seen["measured"] else "left out; --seen measures them, too"
    return known, f"images that it was trained on, and that chose its best epoch: {done}"


def _share(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:.4f}"


def main() -> None:
    """Entry point."""
    parse_arguments("evaluate", evaluate, __doc__)
