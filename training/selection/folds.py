"""Stratified folds that keep groups together: every image is held out exactly once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.training.core.errors import DataError
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.data.split import place_groups


def make_folds(manifest: Manifest, folds: int, seed: int) -> list[Manifest]:
    """Divides all images that have no named ``test`` split into folds.

    Equal contents and equal seeds give equal folds, wherever the files are stored. Copies of an image form a group.

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
    units = [record.group or record.sha256 for record in pool]
    labels = [record.label for record in pool]
    _check_classes(labels, units, folds)
    if len(set(units)) < len(units):
        return [_hold_out(pool, indices) for indices in _grouped(labels, units, folds, seed)]
    from sklearn.model_selection import StratifiedKFold  # takes a second to import

    # Stratifies exactly when there are no groups. It takes seeds of 32 bits; those of this project may be longer.
    parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    return [_hold_out(pool, indices) for _, indices in parts.split(np.zeros(len(pool)), labels)]


def _grouped(labels: Sequence[str], units: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """The indices that each fold holds out.

    scikit-learn's StratifiedGroupKFold is not used: it places groups in the order of their sizes, so its ``shuffle``
    changes nothing when all sizes differ (seen with version 1.9). Here the seed perturbs the sizes that determine the
    order, by a factor of at most two, so that the largest groups are still placed while every fold has room.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        members[unit].append(index)
    groups = list(members.values())
    jitter = np.random.default_rng(seed % 2**64).uniform(0.5, 1, len(groups))
    order = np.argsort([-len(group) for group in groups] * jitter, kind="stable")
    groups = [groups[i] for i in order]
    names = [str(number) for number in range(folds)]
    places = place_groups([[labels[i] for i in group] for group in groups], dict.fromkeys(names, 1 / folds))
    return [
        np.array(sorted(i for group, place in zip(groups, places, strict=True) if place == name for i in group))
        for name in names
    ]


def training_pool(manifest: Manifest) -> list[Record]:
    """The images that selection may use: all that are not in a named ``test`` split."""
    return [record for record in manifest.records if record.split != "test"]


def _hold_out(pool: Sequence[Record], indices: np.ndarray) -> Manifest:
    held_out = set(indices.tolist())
    parts = ["test" if i in held_out else "train" for i in range(len(pool))]
    return Manifest(tuple(replace(record, split=part) for record, part in zip(pool, parts, strict=True)))


def _check_classes(labels: Sequence[str], units: Sequence[str], folds: int) -> None:
    units_by_class: dict[str, set[str]] = defaultdict(set)
    for label, unit in zip(labels, units, strict=True):
        units_by_class[label].add(unit)
    label = min(sorted(units_by_class), key=lambda name: len(units_by_class[name]))
    count = len(units_by_class[label])
    if count < folds:
        remedy = f"use --folds {count}, or add some" if count > 1 else "add some, or remove the class"
        raise DataError(f"class {label!r} has {count} separate images or groups, too few for {folds} folds; {remedy}")
