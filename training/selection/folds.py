"""Stratified folds that keep groups whole: every image is held out exactly once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.training.data.manifest import Manifest, Record
from marquee.training.errors import DataError


def make_folds(manifest: Manifest, folds: int, seed: int) -> list[Manifest]:
    """Divides all images that have no named ``test`` split into folds.

    Equal contents and equal seeds give equal folds wherever the files lie. Copies of one image count as a group.

    Args:
        manifest: from :func:`marquee.training.data.scan.scan`.
        folds: at least 2.
        seed: another seed gives other folds.

    Returns:
        One manifest a fold: the images that it holds out are ``test``, all others ``train``.

    Raises:
        DataError: a class has fewer images, or fewer groups, than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes a second to import

    pool = sorted(training_pool(manifest), key=lambda record: (record.sha256, record.label, record.path))
    units = [record.group or record.sha256 for record in pool]
    labels = [record.label for record in pool]
    _check_classes(labels, units, folds)
    # A seed of scikit-learn has 32 bits, this project's may have more.
    options = {"n_splits": folds, "shuffle": True, "random_state": seed % 2**32}
    rows = np.zeros(len(pool))
    if len(set(units)) == len(units):
        # Exact about classes, and much the faster where every image is on its own.
        parts = StratifiedKFold(**options).split(rows, labels)
    else:
        parts = StratifiedGroupKFold(**options).split(rows, labels, units)
    return [_hold_out(pool, held) for _, held in parts]


def training_pool(manifest: Manifest) -> list[Record]:
    """The images that selection may look at: all without a named ``test`` split."""
    return [record for record in manifest.records if record.split != "test"]


def _hold_out(pool: Sequence[Record], held: np.ndarray) -> Manifest:
    chosen = set(held.tolist())
    parts = ["test" if i in chosen else "train" for i in range(len(pool))]
    return Manifest(tuple(replace(record, split=part) for record, part in zip(pool, parts, strict=True)))


def _check_classes(labels: Sequence[str], units: Sequence[str], folds: int) -> None:
    of_class: dict[str, set[str]] = defaultdict(set)
    for label, unit in zip(labels, units, strict=True):
        of_class[label].add(unit)
    label = min(sorted(of_class), key=lambda name: len(of_class[name]))
    count = len(of_class[label])
    if count < folds:
        remedy = f"use --folds {count}, or add some" if count > 1 else "add some, or remove the class"
        raise DataError(f"class {label!r} has {count} separate images or groups, too few for {folds} folds; {remedy}")
