"""The rows of a table that a run uses, each as a client would send it, with target, split and digest."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from marquee.handlers.core.arrays import Arrays, concatenate
from marquee.handlers.core.json_text import dump_long
from marquee.handlers.inputs.table.spec import TableSpec
from marquee.training.core.errors import DataError
from marquee.training.core.files import write_csv
from marquee.training.tasks.tabular.schema.schema_file import read_schema, write_schema

COLUMNS = ("path", "split", "sha256", "group", "time", "target", "row")
SCHEMA_FILE = "schema.json"
"""Beside the manifest: the columns of the table."""
CHUNK = 4096
"""Rows that are decoded at once."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row."""

    path: str
    """``FILE:LINE``."""
    row: bytes
    """The features as a JSON object: what a client would send."""
    target: str
    """The number, in the shortest decimals that give it back, or the label."""
    split: str = ""
    """train, val or test; empty before :func:`marquee.training.tasks.tabular.split.assign_splits`."""
    group: str = ""
    """Rows of one group are never in two splits; empty for an independent row."""
    time: float = 0.0
    """What rows are ordered by in a split by time."""

    @property
    def sha256(self) -> str:
        """Digest of the features: of what a client would send."""
        return hashlib.sha256(self.row).hexdigest()

    @property
    def content(self) -> str:
        """Digest of features and target (see :func:`marquee.training.core.dataset.content_of`)."""
        return hashlib.sha256(self.row + b"\n" + self.target.encode()).hexdigest()

    @property
    def number(self) -> float:
        """The target of a regression."""
        return float(self.target)


@dataclass(frozen=True)
class TableManifest:
    """The rows of a data set in a fixed order, and their schema."""

    spec: TableSpec
    records: tuple[Record, ...]

    def split(self, name: str) -> list[Record]:
        """The records of one split, in order."""
        return self._splits.get(name, [])

    @cached_property
    def _splits(self) -> dict[str, list[Record]]:
        splits: dict[str, list[Record]] = {}
        for record in self.records:
            splits.setdefault(record.split, []).append(record)
        return splits

    @property
    def target(self) -> str:
        """Name of the target's column."""
        return self.spec.target.name

    @property
    def unit(self) -> str:
        """Unit of the target."""
        return self.spec.target.unit

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of a classification, in the order of their indices; empty for a regression."""
        return self.spec.target.categories

    @cached_property
    def digest(self) -> str:
        """sha256 over all that determines training: features, target and split of every row, and the schema."""
        digest = hashlib.sha256(repr(self.spec).encode())
        for line in sorted(f"{record.sha256} {record.split} {record.target}" for record in self.records):
            digest.update(line.encode() + b"\n")
        return f"sha256:{digest.hexdigest()}"


def arrays_in(spec: TableSpec, records: Sequence[Record]) -> Iterator[Arrays]:
    """The records as a server decodes them, :data:`CHUNK` at a time.

    Raises:
        DataError: a row does not fit the schema; the message names it.
    """
    source = replace(spec, max_rows=CHUNK, max_bytes=sys.maxsize).create()
    for start in range(0, len(records), CHUNK):
        part = records[start : start + CHUNK]
        found = source.opener().items(b"[" + b",".join(record.row for record in part) + b"]")
        if found is None:
            raise RuntimeError("a table reads every body by itself")
        batch = source.collate(found[0])
        for record, error in zip(part, batch.errors, strict=True):
            if error is not None:
                raise DataError(f"{record.path}: {error.message}")
        yield batch.inputs


def arrays_of(spec: TableSpec, records: Sequence[Record]) -> Arrays:
    """All records as a server decodes them; see :func:`arrays_in`."""
    return concatenate(list(arrays_in(spec, records)))


def with_features(record: Record, spec: TableSpec) -> Record:
    """The record with the cells of these features, and no others: as if its table had been read with this schema."""
    cells = json.loads(record.row)
    return replace(record, row=dump_long({column.name: cells.get(column.name) for column in spec.features}))


def numbers_of(records: Sequence[Record]) -> np.ndarray:
    """The targets of a regression, float64 (N,)."""
    return np.array([record.number for record in records], np.float64)


def indices_of(records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
    """The targets of a classification as indices of labels, int64 (N,).

    Raises:
        DataError: a row has another label.
    """
    index = {label: number for number, label in enumerate(labels)}
    for record in records:
        if record.target not in index:
            raise DataError(f"{record.path}: the model does not know the label {record.target!r}")
    return np.array([index[record.target] for record in records], np.int64)


def write_manifest(path: Path, manifest: TableManifest) -> None:
    """Writes the schema beside ``path``, then the manifest as CSV."""
    write_schema(path.with_name(SCHEMA_FILE), manifest.spec)
    rows = (
        [record.path, record.split, record.sha256, record.group, repr(record.time), record.target, record.row.decode()]
        for record in manifest.records
    )
    write_csv(path, COLUMNS, rows)


def read_manifest(path: Path) -> TableManifest:
    """Reads what :func:`write_manifest` wrote.

    Raises:
        TrainingError: a file is missing or not such a manifest.
    """
    spec = read_schema(path.with_name(SCHEMA_FILE))
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            return TableManifest(spec, tuple(_record(row) for row in csv.DictReader(stream)))
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a run's manifest: {error!r}") from error
    finally:
        csv.field_size_limit(limit)


def _record(row: dict[str, str]) -> Record:
    if None in row.values():
        raise ValueError(f"the row of {row['path']} is incomplete")
    record = Record(row["path"], row["row"].encode(), row["target"], row["split"], row["group"], float(row["time"]))
    if record.sha256 != row["sha256"]:
        raise ValueError(f"the row of {record.path} was changed")
    return record
