"""Evaluation of a bundle through the predictor that serves it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marquee.handlers.core.arrays import Arrays, concatenate, rows
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.dataset import SPLITS, content_of
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import resolve_workers
from marquee.training.core.task import Task, task_for

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """How a run has used the items of a data set."""

    train: int
    """Items that it was trained on."""
    val: int
    """Items on which its best epoch and its thresholds were chosen."""
    unseen: tuple[Any, ...]
    """The other items, including the run's own test items."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a bundle on a data set."""

    metrics: dict[str, Any]
    """Those of :meth:`marquee.training.core.task.Task.measure`; ``tta``, ``variant``, ``left_out``; ``seen``: how many
    of the items the run has used."""
    records: Sequence[Any]
    """The items that were measured."""
    outputs: Arrays
    """The predictor's outputs for them."""


TestTimeAugmentation = Literal["none", "flip", "flip-shift"]


def predict_outputs(
    predictor: Predictor,
    records: Sequence[Any],
    workers: int,
    progress: Progress,
    tta: TestTimeAugmentation = "none",
) -> Arrays:
    """The predictor's outputs for all items, in the order of ``records``.

    Args:
        predictor: the bundle.
        records: items, at least one.
        workers: loader processes.
        progress: where progress is reported.
        tta: views of each item whose outputs are averaged (see :meth:`marquee.training.core.task.Task.views`).
            Served answers use the unchanged item only.

    Raises:
        DataError: an item has changed, or the model does not know its ground truth.
    """
    task, parts = task_for(predictor.spec), []
    with progress.task("evaluating", len(records)) as bar:
        for inputs in task.batches(predictor.spec, records, workers):
            views = [predictor.outputs(view) for view in task.views(inputs, tta)]
            parts.append({name: np.mean([view[name] for view in views], axis=0) for name in views[0]})
            bar.advance(count=rows(inputs))
    return concatenate(parts)


def find_known(task: Task[Any], bundle: Path, records: Sequence[Any]) -> Known | None:
    """Compares items with those of the run that made a bundle (see :func:`content_of`).

    Args:
        task: of the bundle.
        bundle: the bundle's folder.
        records: items, with digests.

    Returns:
        None if the bundle is not in the folder of a run, such as an imported one.

    Raises:
        TrainingError: the run's records are damaged.
    """
    folder = RunFolder(bundle.absolute().parent)
    if not folder.is_begun:
        return None
    splits: dict[str, set[str]] = {split: set() for split in SPLITS}
    for record in task.read_manifest(folder.manifest).records:
        splits[record.split].add(content_of(record))
    train, val = splits["train"], splits["val"] - splits["train"]
    contents = [content_of(record) for record in records]
    return Known(
        train=sum(content in train for content in contents),
        val=sum(content in val for content in contents),
        unseen=tuple(
            record
            for record, content in zip(records, contents, strict=True)
            if content not in train and content not in val
        ),
    )


def _left_out(item: Rejected) -> dict[str, str]:
    own_class = {"class": item.stratum} if item.stratum else {}
    return {"path": item.path, "reason": item.reason, **own_class}


def evaluate(
    predictor: Predictor,
    data: Path,
    *,
    seen: bool = False,
    tta: "TestTimeAugmentation" = "none",
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a bundle on a data set.

    Args:
        predictor: the loaded bundle; the run that its folder belongs to determines which items were used.
        data: the data set; if it has a test split, only that is measured.
        seen: also measure items that the run was trained on, or on which its best epoch was chosen.
        tta: test-time augmentation.
        progress: where progress is reported.

    Raises:
        DataError: the data set cannot be used, or the run has used all of its items.
    """
    progress, task = progress or Progress(), task_for(predictor.spec)
    manifest, rejected = task.read_for(predictor.spec, data, progress)
    for line in task.findings(manifest):
        logger.info(line)
    candidates = manifest.split("test") or list(manifest.records)
    known = find_known(task, predictor.bundle.folder, candidates)
    records = candidates if seen or known is None else list(known.unseen)
    if not records:
        raise DataError(
            f"{data}: the run has seen all {len(candidates)} {task.unit} of it, in training or in choosing its best "
            f"epoch; use {task.unit} that are new to it, or measure these with --seen"
        )
    outputs = predict_outputs(predictor, records, resolve_workers(-1, len(records)), progress, tta)
    metrics = {
        **task.measure(predictor.output, records, outputs),
        "tta": tta,
        "variant": predictor.variant.name,
        "seen": None if known is None else {"train": known.train, "val": known.val, "measured": seen},
        "left_out": [_left_out(item) for item in rejected],
    }
    return Evaluation(metrics, records, outputs)
