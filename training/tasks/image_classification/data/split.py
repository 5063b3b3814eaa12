"""Seeded, stratified splits that keep groups whole."""

import random
from collections import defaultdict
from dataclasses import replace

from marquee.training.core.config import SplitConfig
from marquee.training.core.errors import DataError
from marquee.training.core.grouping import place_groups
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record


def assign_splits(manifest: Manifest, config: SplitConfig, seed: int) -> tuple[Manifest, list[str]]:
    """Assigns a split to every image, keeping those that the data set defines.

    If it defines none, each class is divided by the configured fractions. If it defines ``train`` but not ``val``,
    validation images are taken from ``train``. In a table with splits, images without one are added to ``train``.
    Images of one group go to one split; the fractions of each class are then met as closely as whole groups allow.

    Args:
        manifest: from :func:`marquee.training.tasks.image_classification.data.scan.scan`.
        config: the fractions.
        seed: equal seeds and equal contents give equal splits, wherever the files are stored.

    Returns:
        The manifest with a split for every image, and warnings.

    Raises:
        DataError: a class of the validation or test images has no training image, or the data set's own splits
            divide a group.
    """
    named = {record.split for record in manifest.records} - {""}
    if not named:
        parts = {"val": config.val, "test": config.test}
        divided = _divide(manifest.records, parts, seed)
    else:
        records = tuple(replace(record, split=record.split or "train") for record in manifest.records)
        fixed = [record for record in records if record.split != "train"]
        training = [record for record in records if record.split == "train"]
        if "val" not in named:
            training = _divide(training, {"val": config.val}, seed)
        divided = sorted(fixed + training, key=lambda record: record.path)
    result = replace(manifest, records=tuple(divided))
    _check_groups(result)
    return result, _check(result)


def _divide(records: tuple[Record, ...] | list[Record], parts: dict[str, float], seed: int) -> list[Record]:
    divide = _divide_groups if any(record.group for record in records) else _divide_classes
    return sorted(divide(records, parts, seed), key=lambda record: record.path)


def _divide_classes(records: tuple[Record, ...] | list[Record], parts: dict[str, float], seed: int) -> list[Record]:
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_label[record.label].append(record)
    divided = []
    for label, members in sorted(by_label.items()):
        # Order by content, so that moving or renaming files changes nothing; each class has its own random
        # stream, so that a new class does not reshuffle the others.
        members = sorted(members, key=lambda record: (record.sha256, record.path))
        random.Random(f"{seed}/{label}").shuffle(members)  # noqa: S311 - a split is not a secret
        start = 0
        for split, fraction in parts.items():
            count = round(len(members) * fraction)
            if fraction > 0 and count == 0 and len(members) > len(parts):
                count = 1  # small classes are measured too, as long as one image is left for training
            divided += [replace(record, split=split) for record in members[start : start + count]]
            start += count
        divided += [replace(record, split="train") for record in members[start:]]
    return divided


def _divide_groups(records: tuple[Record, ...] | list[Record], parts: dict[str, float], seed: int) -> list[Record]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.sha256, record.path)):
        groups[f"group {record.group}" if record.group else f"image {record.sha256} {record.path}"].append(record)
    members = sorted(groups.values(), key=lambda group: group[0].sha256)
    random.Random(f"{seed}/groups").shuffle(members)  # noqa: S311 - a split is not a secret
    members.sort(key=len, reverse=True)
    fractions = {"train": 1 - sum(parts.values()), **parts}
    places = place_groups([[record.label for record in group] for group in members], fractions)
    return [replace(record, split=place) for group, place in zip(members, places, strict=True) for record in group]


def _check_groups(manifest: Manifest) -> None:
    places: dict[str, str] = {}
    for record in manifest.records:
        if record.group and places.setdefault(record.group, record.split) != record.split:
            raise DataError(
                f"group {record.group!r} lies in {places[record.group]} and in {record.split}; give all its images "
                f"one split in the table (an image without a split counts as train)"
            )


def _check(manifest: Manifest) -> list[str]:
    counts: dict[str, dict[str, int]] = {split: defaultdict(int) for split in ("train", "val", "test")}
    for record in manifest.records:
        for name in manifest.names_of(record):
            counts[record.split][name] += 1
    warnings = []
    for label in manifest.labels:
        if not counts["train"][label]:
            raise DataError(f"class {label!r} has images for val or test but none for train; add some or remove it")
        for split in ("val", "test"):
            if manifest.split(split) and not counts[split][label]:
                warnings.append(f"class {label!r} has no {split} image; its accuracy there is unknown")
    if not manifest.split("val"):
        raise DataError("no class has enough images for a validation image; at least 3 in one class are needed")
    return warnings
