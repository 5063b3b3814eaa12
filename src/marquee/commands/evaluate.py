"""Evaluate a run's bundle on a data set, with the preprocessing and the program that are served.

Example: marquee evaluate runs/photos --data photos

DATA has the layouts of marquee train; if it has a test split, only that is measured, otherwise all of it. Images and
rows that were used for training, or for choosing the best epoch, are left out, wherever they are; --seen measures them,
too.
"""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible


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
        data: Folder or table of labelled images, or a table of rows with the column that is predicted.
        json: Print one JSON object, with the confusion matrix.
        predictions: Write every item's answer to this CSV file.
        device: cpu, cuda, cuda:1 or mps.
        tta: Test-time augmentation: average the answers for an image and its mirror image (flip), and for both shifted
            by a few pixels each way (flip-shift). Only to see what it would gain: a server uses the image alone.
        variant: Variant of the bundle to measure; auto: the one that would be served on this machine.
        seen: Also measure the items that were used for training or for choosing the best epoch: this shows how well
            the model remembers, not how well it generalises.
    """
    with interruptible():
        from marquee.handlers.core.predictor import Predictor
        from marquee.handlers.core.quoting import one_line
        from marquee.serving.archive import find_bundle
        from marquee.training.core import evaluation
        from marquee.training.core.device import resolve_device
        from marquee.training.core.rejected import SHOWN
        from marquee.training.core.task import row, task_for
    bundle = find_bundle(run_folder)
    predictor = Predictor.load(bundle, str(resolve_device(device)), None if variant == "auto" else variant)
    result = evaluation.evaluate(predictor, data, seen=seen, tta=tta)
    task = task_for(predictor.spec)
    if predictions is not None:
        task.write_predictions(predictions, predictor.output, result.records, result.outputs)
    metrics = result.metrics
    if json:
        print(jsonlib.dumps({**metrics, **predictor.spec.output.describe()}))
        return
    for name, meaning in task.meanings.items():
        if name in metrics:
            value = metrics[name]
            shown = "undefined" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
            print(row(name, shown, meaning))
    print(row("seen", *_seen(metrics["seen"], task.unit)))
    print(row("variant", metrics["variant"], "variant of the bundle that was measured"))
    for line in task.details(metrics):
        print(line)
    left_out = metrics["left_out"]
    for item in left_out[:SHOWN]:
        print(one_line(f"left out: {item['path']}: {item['reason']}"))
    if len(left_out) > SHOWN:
        print(f"left out: {len(left_out) - SHOWN} more; --json lists all")


def _seen(seen: dict[str, Any] | None, unit: str) -> tuple[str, str]:
    """How many of the items the run has seen, and whether they were measured."""
    if seen is None:
        return "unknown", f"the bundle is not in a run folder: all {unit} were measured, seen in training or not"
    counts = f"{seen['train']} + {seen['val']}"
    if not seen["train"] + seen["val"]:
        return counts, f"none of the {unit} were used for training or for choosing the best epoch"
    treatment = "measured with the others" if seen["measured"] else "left out; --seen measures them, too"
    return counts, f"{unit} used for training, and for choosing the best epoch: {treatment}"


def main() -> None:
    """Entry point."""
    parse_arguments("evaluate", evaluate, __doc__)
