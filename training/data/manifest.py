"""The manifest: every usable image with its label, split, digest and size; the record of what a run saw."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from marquee.training.errors import DataError
from marquee.training.files import write_atomic

SEPARATOR = "|"
"""Between the labels of one image, where it may have several."""
SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "split", "sha256", "width", "height", "mode", "group")


@dataclass(frozen=True)
class Record:
    """One image."""

    path: str
    """Absolute, so that a run can be resumed from any folder."""
    label: str
    split: str
    """train, val or test; empty before :func:`marquee.training.data.split.assign_splits`."""
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    """Pillow's mode of the file as stored, such as ``L`` or ``RGB``."""
    group: str = ""
    """Patient, scene, video: images of one group never lie in two splits; empty for an image on its own."""


@dataclass(frozen=True)
class Rejected:
    """One file that is left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The images of a data set, in a fixed order."""

    records: tuple[Record, ...]
    multi_label: bool = False
    """Whether a record's label may be several, with :data:`SEPARATOR` between them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their indices: sorted."""
        return tuple(sorted({name for record in self.records for name in names_of(record, self.multi_label)}))

    def split(self, name: str) -> list[Record]:
        """The records of one split, in order."""
        return [record for record in self.records if record.split == name]

    @property
    def digest(self) -> str:
        """sha256 over what decides training: content, label and split of every image; places do not count."""
        lines = sorted(f"{record.sha256} {record.split} {record.label}" for record in self.records)
        return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def names_of(record: Record, multi_label: bool) -> tuple[str, ...]:
    """The names that a record's label is made of."""
    if not multi_label:
        return (record.label,)
    return tuple(sorted({name.strip() for name in record.label.split(SEPARATOR)} - {""}))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the manifest as CSV."""
    _write_csv(path, COLUMNS, ([getattr(record, name) for name in COLUMNS] for record in manifest.records))


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Writes the files that were left out as CSV with ``path,reason``."""
    _write_csv(path, ("path", "reason"), ([item.path, item.reason] for item in rejected))


def read_manifest(path: Path, multi_label: bool = False) -> Manifest:
    """Reads what :func:`write_manifest` wrote.

    Raises:
        DataError: the file is missing or not such a manifest.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return Manifest(
            tuple(
                Record(
                    row["path"],
                    row["label"],
                    row["split"],
                    row["sha256"],
                    int(row["width"]),
                    int(row["height"]),
                    row["mode"],
                    row.get("group") or "",  # manifests of older runs have no such column
                )
                for row in rows
            ),
            multi_label,
        )
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a run's manifest: {error!r}") from error


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())
