"""Folds that keep sets of items together and the shares of the classes alike, with a seed."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from marquee.training.core.errors import DataError
from marquee.training.core.grouping import place_groups


def grouped_folds(labels: Sequence[str], units: Sequence[str], folds: int, seed: int) -> list[np.ndarray]:
    """The indices that each fold holds out.

    scikit-learn's StratifiedGroupKFold is not used: it places groups in the order of their sizes, so its ``shuffle``
    changes nothing when all sizes differ (seen with version 1.9). Here the seed perturbs the sizes that determine the
    order, by a factor of at most two, so that the largest groups are still placed while every fold has room.

    Args:
        labels: class of each item; all equal where there are none.
        units: what each item belongs to; items of one unit are held out together.
        folds: at least 2.
        seed: of any size.

    Returns:
        For each fold, int64 (N,), ascending; every item is held out once.
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


def check_classes(labels: Sequence[str], units: Sequence[str], folds: int, noun: str) -> None:
    """Raises DataError for a class with fewer units than folds.

    Args:
        labels: class of each item.
        units: what each item belongs to.
        folds: number of folds.
        noun: the plural noun for items.
    """
    units_by_class: dict[str, set[str]] = defaultdict(set)
    for label, unit in zip(labels, units, strict=True):
        units_by_class[label].add(unit)
    label = min(sorted(units_by_class), key=lambda name: len(units_by_class[name]))
    count = len(units_by_class[label])
    if count < folds:
        remedy = f"use --folds {count}, or add some" if count > 1 else "add some, or remove the class"
        raise DataError(f"class {label!r} has {count} separate {noun} or groups, too few for {folds} folds; {remedy}")
