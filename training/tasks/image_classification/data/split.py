"""Seeded, stratified splits that keep groups and copies together."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from marquee.training.core.config import SplitConfig
from marquee.training.core.errors import DataError
from marquee.training.core.grouping import place_groups
from marquee.training.tasks.classification.names import listed
from marquee.training.tasks.image_classification.data.copies import together
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

Unit = list[Record]
"""Images that belong in one split."""
_SHOWN = 5
"""Classes that are named one by one."""
_LARGE_CLASS = 20
"""Images of a class of which a share can be expected to be kept."""


def assign_splits(manifest: Manifest, config: SplitConfig, seed: int) -> tuple[Manifest, list[str]]:
    """Assigns a split to every image, keeping those that the data set defines.

    If it defines none, each class is divided by the configured fractions. If it defines ``train`` but not ``val``,
    validation images are taken from ``train``. In a table with splits, images without one are added to ``train``.
    Images of one group, and copies of an image, go to one split; the fractions of each class are then met as closely as
    that allows.

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
    records = tuple(replace(record, split=record.split or "train") if named else record for record in manifest.records)
    fixed = [record for record in records if record.split not in ("", "train")]
    rest = [record for record in records if record.split in ("", "train")]
    parts = {} if "val" in named else {"val": config.val} if named else {"val": config.val, "test": config.test}
    divided = _divide(rest, parts, seed) if parts else rest
    result = replace(
        manifest, records=tuple(sorted(fixed + divided, key=lambda record: record.path) if named else divided)
    )
    _check_groups(result)
    return result, [*_check(result), *_missed_shares(divided, parts)]


def _divide(records: Sequence[Record], parts: dict[str, float], seed: int) -> list[Record]:
    units = [sorted((records[i] for i in unit), key=_content) for unit in together(records)]
    is_mixed = any(record.group for record in records) or any(len({one.label for one in unit}) > 1 for unit in units)
    divide = _divide_units if is_mixed else _divide_classes
    return sorted(divide(units, parts, seed), key=lambda record: record.path)


def _content(record: Record) -> tuple[str, str]:
    """Orders by content, so that moving or renaming files changes nothing."""
    return record.sha256, record.path


def _divide_classes(units: Sequence[Unit], parts: dict[str, float], seed: int) -> list[Record]:
    by_label: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        by_label[unit[0].label].append(unit)
    divided: list[Record] = []
    for label, members in sorted(by_label.items()):
        # Each class has its own random stream, so that a new class does not reshuffle the others.
        members = sorted(members, key=lambda unit: _content(unit[0]))
        random.Random(f"{seed}/{label}").shuffle(members)  # noqa: S311 - a split is not a secret
        images, is_divisible = sum(map(len, members)), len(members) > len(parts)
        for split, fraction in parts.items():
            wanted = round(images * fraction)
            if fraction > 0 and wanted == 0 and is_divisible:
                wanted = 1  # small classes are measured too, as long as one image is left for training
            taken, members = _take(members, wanted, is_divisible)
            divided += [replace(record, split=split) for unit in taken for record in unit]
        divided += [replace(record, split="train") for unit in members for record in unit]
    return divided


def _take(units: Sequence[Unit], wanted: int, at_least_one: bool) -> tuple[list[Unit], list[Unit]]:
    """The first units with so many images in all, and the others."""
    taken, left, count = [], [], 0
    for unit in units:
        if count + len(unit) <= wanted:
            taken.append(unit)
            count += len(unit)
        else:
            left.append(unit)
    if not taken and wanted and at_least_one:
        smallest = min(left, key=len)
        taken, left = [smallest], [unit for unit in left if unit is not smallest]
    return taken, left


def _divide_units(units: Sequence[Unit], parts: dict[str, float], seed: int) -> list[Record]:
    members = sorted(units, key=lambda unit: unit[0].sha256)
    random.Random(f"{seed}/groups").shuffle(members)  # noqa: S311 - a split is not a secret
    members.sort(key=len, reverse=True)
    fractions = {"train": 1 - sum(parts.values()), **parts}
    places = place_groups([[record.label for record in unit] for unit in members], fractions)
    return [replace(record, split=place) for unit, place in zip(members, places, strict=True) for record in unit]


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
    for label in manifest.labels:
        if not counts["train"][label]:
            raise DataError(f"class {label!r} has images for val or test but none for train; add some or remove it")
    warnings = []
    for split in ("val", "test"):
        if manifest.split(split):
            warnings += _unmeasured([label for label in manifest.labels if not counts[split][label]], split)
    if not manifest.split("val"):
        raise DataError("no class has enough images for a validation image; at least 3 in one class are needed")
    return warnings


def _unmeasured(labels: Sequence[str], split: str) -> list[str]:
    if len(labels) > _SHOWN:
        return [f"{len(labels):,} classes have no {split} image, such as {listed(labels)}; their accuracy is unknown"]
    return [f"class {label!r} has no {split} image; its accuracy there is unknown" for label in labels]


def _missed_shares(divided: Sequence[Record], parts: dict[str, float]) -> list[str]:
    """A line for each split that has another share of the images, or of a class, than was asked for."""
    lines = []
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in divided:
        by_label[record.label].append(record)
    for split, fraction in parts.items():
        if _is_missed(divided, split, fraction):
            text = _share(divided, split)
            lines.append(f"{split} has {text} of the images, not {100 * fraction:.3g} %: {_why(divided)}")
            continue
        large = {label: members for label, members in by_label.items() if len(members) >= _LARGE_CLASS}
        missed = [label for label, members in large.items() if _is_missed(members, split, fraction)]
        if missed:
            text = f"of class {missed[0]!r} {_share(by_label[missed[0]], split)}"
            more = f", and so in {len(missed) - 1:,} more classes" if len(missed) > 1 else ""
            lines.append(f"{split} has {text}, not {100 * fraction:.3g} %{more}: {_why(divided)}")
    return lines


def _is_missed(records: Sequence[Record], split: str, fraction: float) -> bool:
    wanted = fraction * len(records)
    return abs(_count(records, split) - wanted) > max(1, wanted / 4)


def _count(records: Sequence[Record], split: str) -> int:
    return sum(record.split == split for record in records)


def _share(records: Sequence[Record], split: str) -> str:
    count = _count(records, split)
    return f"{count:,} of {len(records):,} ({100 * count / len(records):.3g} %)"


def _why(divided: Sequence[Record]) -> str:
    if len(together(divided)) < len(divided):
        return "groups and copies stay whole"
    return "rounded within each class"
