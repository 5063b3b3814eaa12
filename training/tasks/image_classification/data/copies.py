"""Copies of an image: files of equal content (sha256), in several splits, under several labels, or side by side."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from marquee.training.core.dataset import SPLITS
from marquee.training.core.errors import DataError
from marquee.training.core.grouping import sets_of
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.classification.names import listed
from marquee.training.tasks.image_classification.config import ChecksConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

CONTRADICTION, COPY = "the same image as ", "a copy of "
"""How the reasons begin for which such files are left out."""


def together(records: Sequence[Record]) -> list[list[int]]:
    """Sets of images that belong in one split: of one group, or copies, directly or through others."""
    return sets_of(
        ([("content", record.sha256)] if record.sha256 else []) + ([("group", record.group)] if record.group else [])
        for record in records
    )


def units_of(records: Sequence[Record]) -> list[str]:
    """The set that each image belongs to (see :func:`together`), by a name."""
    units = [""] * len(records)
    for number, members in enumerate(together(records)):
        for member in members:
            units[member] = str(number)
    return units


def copies_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Digest -> the images that have it, for those that are several."""
    alike: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.sha256:
            alike[record.sha256].append(record)
    return {digest: members for digest, members in alike.items() if len(members) > 1}


# --- under several labels


def contradictions(manifest: Manifest) -> list[list[Record]]:
    """Copies of an image that do not all have the same labels."""
    return [
        members
        for members in copies_of(manifest.records).values()
        if len({manifest.names_of(record) for record in members}) > 1
    ]


def without_contradictions(data: object, manifest: Manifest, checks: ChecksConfig) -> tuple[Manifest, list[Rejected]]:
    """The manifest without the copies of images that lie under several labels, as far as they are left out.

    Raises:
        DataError: there are some, and they are to be refused.
    """
    found = contradictions(manifest)
    if not found:
        return manifest, []
    if checks.contradictions == "allow":
        line = f"warning: {_contradicting(manifest, found)}; they are kept, though at most one of the labels is right"
        return replace(manifest, warnings=(*manifest.warnings, line)), []
    if checks.contradictions == "refuse":
        raise DataError(
            f"{data}: {_contradicting(manifest, found)}; correct the labels, or leave all copies out with "
            "--checks.contradictions drop"
        )
    members_of = {members[0].sha256: members for members in found}
    reasons: dict[int, str] = {}
    for number, record in enumerate(manifest.records):
        if members := members_of.get(record.sha256):
            other = next(one for one in members if manifest.names_of(one) != manifest.names_of(record))
            reasons[number] = f"{CONTRADICTION}{other.path}, which is {other.label!r}"
    line = (
        f"warning: {_contradicting(manifest, found)}; all {len(reasons):,} files are left out; where an image may show "
        "several classes, use --task multi-label-classification, with one row for it in a table (cat|dog)"
    )
    return _without(manifest, reasons, line)


def _contradicting(manifest: Manifest, found: Sequence[Sequence[Record]]) -> str:
    first = found[0]
    labels = sorted({"|".join(manifest.names_of(record)) for record in first})
    images = "1 image lies" if len(found) == 1 else f"{len(found):,} images lie"
    return f"{images} under several labels; the first is {first[0].path}, under {listed(labels)}"


# --- in several splits of the data set's own


@dataclass(frozen=True)
class Overlap:
    """Images that are evaluated and were learnt from, too, or chosen by."""

    split: str
    """``test`` or ``val``."""
    others: tuple[str, ...]
    """The splits that their copies are in."""
    images: int
    of: int
    """Images of the split."""
    first: tuple[Record, Record]
    """One of them, and its copy."""

    def __str__(self) -> str:
        return f"{self.images:,} of {self.of:,} {self.split} images are also in {' or '.join(self.others)}"


def overlaps(manifest: Manifest) -> list[Overlap]:
    """Test images that are in ``train`` or ``val``, and validation images that are in ``train``."""
    by_split = {split: _by_content(manifest, split) for split in SPLITS}
    found = []
    for split, before in (("test", ("train", "val")), ("val", ("train",))):
        here = by_split[split]
        copies = {
            digest: by_split[other][digest][0]
            for other in reversed(before)
            for digest in here
            if digest in by_split[other]
        }
        shared = [digest for digest in here if digest in copies]
        if shared:
            others = tuple(other for other in before if not by_split[other].keys().isdisjoint(here))
            images, total = sum(len(here[digest]) for digest in shared), sum(map(len, here.values()))
            found.append(Overlap(split, others, images, total, (here[shared[0]][0], copies[shared[0]])))
    return found


def without_overlap(data: object, manifest: Manifest, checks: ChecksConfig) -> tuple[Manifest, list[Rejected]]:
    """The manifest without the copies of evaluated images in other splits, as far as they are left out.

    Args:
        data: for messages.
        manifest: with the splits that the data set defines.
        checks: what is to be done.

    Raises:
        DataError: splits overlap, and that is to be refused.
    """
    found = overlaps(named_splits(manifest))
    if not found:
        return manifest, []
    text = "; ".join(map(str, found))
    if checks.overlap == "allow":
        line = f"warning: {text}: a score on them says nothing about new images"
        return replace(manifest, warnings=(*manifest.warnings, line)), []
    if checks.overlap == "refuse":
        one, other = found[0].first
        raise DataError(
            f"{data}: {text}, such as {one.path} and {other.path}: a score on them says nothing about new images; "
            f"remove them, or leave the copies out of training with --checks.overlap drop, or keep them with allow"
        )
    # Test images stay, and validation images but for copies of these.
    kept: dict[str, Record] = {}
    reasons: dict[int, str] = {}
    records = named_splits(manifest).records
    for split in ("test", "val", "train"):
        for number, record in enumerate(records):
            if record.split == split and record.sha256:
                first = kept.setdefault(record.sha256, record)
                if first.split != split:
                    reasons[number] = f"{COPY}{first.path}, which is a {first.split} image"
    losers = [split for split in SPLITS if any(records[number].split == split for number in reasons)]
    line = f"warning: {text}; the copies, {len(reasons):,} files, are left out of {' and '.join(losers)}"
    return _without(manifest, reasons, line)


def named_splits(manifest: Manifest) -> Manifest:
    """The manifest, where some images have splits, with ``train`` for the others."""
    if all(not record.split for record in manifest.records):
        return manifest
    return replace(
        manifest, records=tuple(replace(record, split=record.split or "train") for record in manifest.records)
    )


def _by_content(manifest: Manifest, split: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for number, record in enumerate(manifest.split(split)):
        found[record.sha256 or f"\0{number} {split}"].append(record)
    return found


def _without(manifest: Manifest, reasons: Mapping[int, str], line: str) -> tuple[Manifest, list[Rejected]]:
    """The manifest without the records of these indices, and with a warning; and these, with the reasons."""
    numbered = list(enumerate(manifest.records))
    kept = tuple(record for number, record in numbered if number not in reasons)
    rejected = [
        Rejected(record.path, reasons[number], record.label, record.split)
        for number, record in numbered
        if number in reasons
    ]
    return replace(manifest, records=kept, warnings=(*manifest.warnings, line)), rejected


# --- side by side


def copies_within(records: Sequence[Record]) -> int:
    """Images beyond the first of each content."""
    return sum(len(members) - 1 for members in copies_of(records).values())


def copy_lines(manifest: Manifest) -> list[str]:
    """A line with the number of copies within the splits, if there are any."""
    splits = {record.split for record in manifest.records}
    copies = sum(copies_within(manifest.split(split)) for split in splits)
    if not copies:
        return []
    total = len(manifest.records)
    return [f"{copies:,} of {total:,} images are copies of others in the same split (equal sha256)"]
