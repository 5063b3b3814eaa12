"""The manifest: every usable image with its label, split, digest and size; the record of what a run used."""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.errors import DataError
from marquee.training.core.files import write_csv

SEPARATOR = "|"
"""Separates the labels of an image that may have several."""
COLUMNS = ("path", "label", "split", "sha256", "width", "height", "mode", "group")


@dataclass(frozen=True)
class Record:
    """One image."""

    path: str
    """Absolute, so that a run can be resumed from any folder."""
    label: str
    split: str
    """train, val or test; empty before :func:`marquee.training.tasks.image_classification.data.split.assign_splits`."""
    sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    """Pillow's mode of the file as stored, such as ``L`` or ``RGB``."""
    group: str = ""
    """Patient, scene, video: images of one group are never in two splits; empty for an independent image."""


NamesOf = Callable[[Record], tuple[str, ...]]
"""A record -> the class names in its label."""


def one_name(record: Record) -> tuple[str, ...]:
    """The label of an image that has exactly one."""
    return (record.label,)


def several_names(record: Record) -> tuple[str, ...]:
    """The labels of an image that may have several, separated by :data:`SEPARATOR`, or none."""
    return tuple(sorted({name.strip() for name in record.label.split(SEPARATOR)} - {""}))


@dataclass(frozen=True)
class Manifest:
    """The images of a data set, in a fixed order."""

    records: tuple[Record, ...]
    names_of: NamesOf = one_name
    """The class names in a record's label."""
    warnings: tuple[str, ...] = ()
    """What the images themselves gave rise to, one line each; not written."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their indices: sorted."""
        return tuple(sorted({name for record in self.records for name in self.names_of(record)}))

    def split(self, name: str) -> list[Record]:
        """The records of one split, in order."""
        return [record for record in self.records if record.split == name]

    @property
    def digest(self) -> str:
        """sha256 over all that determines training: content, label and split of every image; paths do not matter."""
        lines = sorted(f"{record.sha256} {record.split} {record.label}" for record in self.records)
        return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes the manifest as CSV."""
    write_csv(path, COLUMNS, ([getattr(record, name) for name in COLUMNS] for record in manifest.records))


def read_manifest(path: Path, names_of: NamesOf = one_name) -> Manifest:
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
            names_of,
        )
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a run's manifest: {error!r}") from error
