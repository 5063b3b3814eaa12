"""Seeded, stratified splits."""

import random
from collections import defaultdict
from dataclasses import replace

from training.config import SplitConfig
from training.data.manifest import Manifest, Record
from training.errors import DataError


def assign_splits(manifest: Manifest, config: SplitConfig, seed: int) -> tuple[Manifest, list[str]]:
    """Gives every image a split, keeping those that the data set already names.

    Where nothing is named, each class is divided by the configured fractions. Where ``train`` images are named but no
    ``val`` ones, validation images are taken from ``train``. Unnamed images in a partly named table join ``train``.

    Args:
        manifest: from :func:`training.data.scan.scan`.
        config: the fractions.
        seed: equal seeds and equal contents give equal splits, wherever the files lie.

    Returns:
        The manifest with a split for every image, and warnings for people.

    Raises:
        DataError: a class of the validation or test images has no training image.
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
    result = Manifest(tuple(divided))
    return result, _check(result)


def _divide(records: tuple[Record, ...] | list[Record], parts: dict[str, float], seed: int) -> list[Record]:
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_label[record.label].append(record)
    divided = []
    for label, members in sorted(by_label.items()):
        # Order by content, so that moving or renaming files changes nothing; each class has a stream of its own, so
        # that a new class does not reshuffle the others.
        members = sorted(members, key=lambda record: (record.sha256, record.path))
        random.Random(f"{seed}/{label}").shuffle(members)  # noqa: S311 - a split is no secret
        start = 0
        for split, fraction in parts.items():
            count = round(len(members) * fraction)
            if fraction > 0 and count == 0 and len(members) > len(parts):
                count = 1  # small classes are measured too, as long as one image is left to learn from
            divided += [replace(record, split=split) for record in members[start : start + count]]
            start += count
        divided += [replace(record, split="train") for record in members[start:]]
    return sorted(divided, key=lambda record: record.path)


def _check(manifest: Manifest) -> list[str]:
    counts: dict[str, dict[str, int]] = {split: defaultdict(int) for split in ("train", "val", "test")}
    for record in manifest.records:
        counts[record.split][record.label] += 1
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
