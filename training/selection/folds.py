"""Stratified folds of images that keep groups together: every image is held out exactly once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.training.selection.kfold import check_classes, grouped_folds
from marquee.training.tasks.image_classification.data.copies import units_of
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record


def make_folds(manifest: Manifest, folds: int, seed: int) -> list[Manifest]:
    """Divides all images that have no named ``test`` split into folds.

    Equal contents and equal seeds give equal folds, wherever the files are stored. Copies of an image, and images of
    one group, are held out together.

    Args:
        manifest: from :func:`marquee.training.tasks.image_classification.data.scan.scan`.
        folds: at least 2.
        seed: different seeds give different folds, even if all groups differ in size.

    Returns:
        One manifest per fold: the images that it holds out are ``test``, all others ``train``.

    Raises:
        DataError: a class has fewer images, or fewer groups, than there are folds.
    """
    pool = sorted(training_pool(manifest), key=lambda record: (record.sha256, record.label, record.path))
    units = units_of(pool)
    labels = [record.label for record in pool]
    check_classes(labels, units, folds, "images")
    if len(set(units)) < len(units):
        return [_hold_out(pool, indices) for indices in grouped_folds(labels, units, folds, seed)]
    from sklearn.model_selection import StratifiedKFold  # takes a second to import

    # Stratifies exactly when there are no groups. It takes seeds of 32 bits; those of this project may be longer.
    parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    return [_hold_out(pool, indices) for _, indices in parts.split(np.zeros(len(pool)), labels)]


def training_pool(manifest: Manifest) -> list[Record]:
    """The images that selection may use: all that are not in a named ``test`` split."""
    return [record for record in manifest.records if record.split != "test"]


def _hold_out(pool: Sequence[Record], indices: np.ndarray) -> Manifest:
    held_out = set(indices.tolist())
    parts = ["test" if i in held_out else "train" for i in range(len(pool))]
    return Manifest(tuple(replace(record, split=part) for record, part in zip(pool, parts, strict=True)))
