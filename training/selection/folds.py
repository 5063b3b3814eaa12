"""Stratified folds that keep groups whole: every image is held out exactly once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.training.data.manifest import Manifest, Record
from marquee.training.data.split import place_groups
from marquee.training.errors import DataError


def make_folds(manifest: Manifest, folds: int, seed: int) -> list[Manifest]:
    """Divides all images that have no named ``test`` split into folds.

    Equal contents and equal seeds give equal folds wherever the files lie. Copies of one image count as a group.

    Args:
        manifest: from :func:`marquee.training.data.scan.scan`.
        folds: at least 2.
        seed: another seed gives other folds, also where the groups differ in size.

    Returns:
        One manifest a fold: the images that it holds out are ``test``, all others ``train``.

    Raises:
        DataError: a class has fewer images, or fewer groups, than there are folds.
    """
    pool = sorted(training_pool(manifest), key=lambda record: (record.sha256, record.label, record.path))
    units = [record.group or record.sha256 for record in pool]
    labels = [record.label for record in pool]
    _check_classes(labels, units, folds)
    if len(set(units)) < len(units):
        return [_hold_out(pool, held) for held in _grouped(labels, units, folds, seed)]
    from sklearn.model_selection import StratifiedKFold  # takes a second to import

    # Exact about classes where every image is on its own. Its seeds have 32 bits, this project's may have more.
    parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    return [_hold_out(pool, held) for _, held in parts.split(np.zeros(len(pool)), labels)]


def _grouped(labels: Sequence[str], units: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """The indices that each fold holds out.

    Not by scikit-learn's StratifiedGroupKFold, which places groups in the order of their sizes: its ``shuffle`` changes
    nothing where all sizes differ (seen with version 1.9). Here the seed blurs the order, by a factor of
    at most two: the largest are still placed while there is room everywhere.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        members[unit].append(index)
    groups = list(members.values())
    blur = np.random.default_rng(seed % 2**64).uniform(0.5, 1, len(groups))
    order = np.argsort([-len(group) for group in groups] * blur, kind="stable")
    groups = [groups[i] for i in order]
    names = [str(number) for number in range(folds)]
    places = place_groups([[labels[i] for i in group] for group in groups], dict.fromkeys(names, 1 / folds))
    return [
        np.array(sorted(i for group, place in zip(groups, places, strict=True) if place == name for i in group))
        for name in names
    ]


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
