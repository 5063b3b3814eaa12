"""What a data set loses on the way into a run: files of each class, whole classes, whole splits."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from marquee.handlers.core.quoting import one_line
from marquee.training.core.errors import DataError
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.image_classification.config import ChecksConfig
from marquee.training.tasks.image_classification.data.copies import named_splits
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

SHOWN = 10
"""Classes with losses that are named one by one."""


@dataclass(frozen=True)
class Lost:
    """The files of a class that are left out."""

    name: str
    files: int
    of: int
    """All of its files."""
    first: Rejected

    def __str__(self) -> str:
        return f"{self.files:,} of {self.of:,} files of class {self.name!r}"


def lost_by_class(manifest: Manifest, rejected: Sequence[Rejected]) -> list[Lost]:
    """The classes that have lost files, those with the largest shares first."""
    kept = Counter(name for record in manifest.records for name in manifest.names_of(record))
    return _lost(kept, [(name, item) for item in rejected for name in _names(manifest, item)])


def loss_lines(manifest: Manifest, rejected: Sequence[Rejected]) -> list[str]:
    """One line for each class that has lost files, or for the :data:`SHOWN` that have lost most of theirs."""
    lost = lost_by_class(manifest, rejected)
    lines = [f"left out: {one}; first: {_first(one.first)}" for one in lost[:SHOWN]]
    if len(lost) > SHOWN:
        files = sum(one.files for one in lost[SHOWN:])
        lines.append(f"left out: {files:,} files of {len(lost) - SHOWN:,} more classes")
    return lines


def check_lost(data: object, manifest: Manifest, rejected: Sequence[Rejected], checks: ChecksConfig) -> Manifest:
    """The manifest, with a warning for classes and splits of which nothing is left.

    A class that a data set divides among its own splits counts in each of them.

    Args:
        data: for messages.
        manifest: what is left.
        rejected: all that is left out.
        checks: what is to be done.

    Raises:
        DataError: there are some, and they are to be refused.
    """
    # Where the data set defines splits, what has none is for training.
    if any(record.split for record in manifest.records) or any(item.split for item in rejected):
        named = named_splits(manifest)
        gone = _gone_from(named, [replace(item, split=item.split or "train") for item in rejected])
    else:
        gone = _gone_from(manifest, rejected)
    if not gone:
        return manifest
    shown = "; ".join(gone[:3]) + (f"; and {len(gone) - 3:,} more" if len(gone) > 3 else "")
    if checks.lost_classes == "refuse":
        raise DataError(f"{data}: {shown}; mend or remove them, or go on without: --checks.lost-classes allow")
    return replace(manifest, warnings=(*manifest.warnings, f"warning: {shown}; the run goes on without"))


def _gone_from(manifest: Manifest, rejected: Sequence[Rejected]) -> list[str]:
    return [*_lost_splits(manifest, rejected), *_lost_classes(manifest, rejected)]


def _lost_splits(manifest: Manifest, rejected: Sequence[Rejected]) -> list[str]:
    kept = Counter(record.split for record in manifest.records)
    lost = _lost(kept, [(item.split, item) for item in rejected if item.split])
    return [_gone(f"the split {one.name!r}", one) for one in lost if one.files == one.of]


def _lost_classes(manifest: Manifest, rejected: Sequence[Rejected]) -> list[str]:
    kept: dict[str, Counter[str]] = defaultdict(Counter)
    for record in manifest.records:
        kept[record.split].update(manifest.names_of(record))
    by_split: dict[str, list[tuple[str, Rejected]]] = defaultdict(list)
    for item in rejected:
        by_split[item.split] += [(name, item) for name in _names(manifest, item)]
    texts = []
    for split, named in by_split.items():
        if split and not kept[split]:
            continue  # told as a whole
        inside = f" in {split}" if split else ""
        lost = (one for one in _lost(kept[split], named) if one.files == one.of)
        texts += [_gone(f"class {one.name!r}", one, inside) for one in lost]
    return texts


def _gone(what: str, one: Lost, inside: str = "") -> str:
    which = "its only file is" if one.files == 1 else f"all of its {one.files:,} files are"
    first = "" if one.files == 1 else "the first: "
    return f"{what} has no usable image{inside}: {which} left out, {first}{_first(one.first)}"


def _first(item: Rejected) -> str:
    return one_line(f"{item.path} ({item.reason})")


def _names(manifest: Manifest, item: Rejected) -> tuple[str, ...]:
    return manifest.names_of(Record(item.path, item.stratum, item.split)) if item.stratum else ()


def _lost(kept: Counter[str], named: Sequence[tuple[str, Rejected]]) -> list[Lost]:
    """Those named, with how many of them there are, in descending order of the shares."""
    counts = Counter(name for name, _ in named)
    first: dict[str, Rejected] = {}
    for name, item in named:
        first.setdefault(name, item)
    lost = [Lost(name, count, count + kept[name], first[name]) for name, count in counts.items()]
    return sorted(lost, key=lambda one: (-one.files / one.of, one.name))
