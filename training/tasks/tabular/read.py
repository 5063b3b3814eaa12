"""A table on disk -> the records of its usable rows; the others are listed with their lines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.json_text import dump_long
from marquee.handlers.inputs.table.cells import RawTable
from marquee.handlers.inputs.table.decode import decode, decode_column
from marquee.handlers.inputs.table.options import TextOptions
from marquee.handlers.inputs.table.parquet import read_parquet
from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from marquee.handlers.inputs.table.text import read_text
from marquee.handlers.inputs.table.values import category_text, date_text
from marquee.training.core.errors import DataError
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.tabular.manifest import Record, TableManifest
from marquee.training.tasks.tabular.schema.infer import Schema, infer_schema
from marquee.training.tasks.tabular.schema.names import named
from marquee.training.tasks.tabular.schema.target import TaskKind, rows_without_target
from marquee.training.tasks.tabular.table_config import TableConfig

_PARQUET = (".parquet", ".pq")


def read_raw(data: Path, options: TextOptions | None = None) -> RawTable:
    """The cells of a CSV or Parquet file.

    Raises:
        DataError: the file cannot be read as a table; the message names it.
    """
    try:
        if data.suffix.lower() in _PARQUET:
            return read_parquet(data)
        return read_text(data.read_bytes(), options or TextOptions())
    except InputError as error:
        raise DataError(f"{data}: {error.message}") from error
    except OSError as error:
        raise DataError(f"{data}: {error.strerror or error}; expected a CSV or Parquet file") from error


def read_table(data: Path, config: TableConfig, kind: TaskKind) -> tuple[TableManifest, list[Rejected], Schema]:
    """The rows of a table for training, without splits; the rows that are left out; and what was found of its columns.

    Raises:
        DataError: the table cannot be used.
    """
    table = read_raw(data, config.text)
    schema = infer_schema(table, config, kind, str(data))
    manifest, rejected = read_known(data, schema.spec, named(table))
    return manifest, rejected, schema


def read_known(data: Path, spec: TableSpec, table: RawTable) -> tuple[TableManifest, list[Rejected]]:
    """The rows of a table whose schema is known.

    Args:
        data: the file, for messages.
        spec: the schema.
        table: the file's cells; every column has a name.

    Raises:
        DataError: the table lacks a column, or no row is left.
    """
    target = spec.target
    if target.name not in (table.names or ()):
        raise DataError(f"{data}: has no column {target.name!r}, which the model predicts")
    try:
        decoded = decode(spec, table)
    except InputError as error:
        raise DataError(f"{data}: {error.message}") from error
    bad = {row.line: row.reason for row in (*table.rejected, *rows_without_target(table, spec))}
    targets, faults = _targets(target, table)
    groups, other_faults = _groups(spec, table)
    for row, line in enumerate(table.lines):
        if fault := decoded.errors[row] or faults.get(row) or other_faults.get(row):
            bad.setdefault(line, fault.message)
    times = _times(spec, table, bad)
    rows = list(_requests(spec, table, decoded.arrays))
    records = tuple(
        Record(f"{data.name}:{line}", dump_long(rows[row]), targets[row], group=groups[row], time=times[row])
        for row, line in enumerate(table.lines)
        if line not in bad
    )
    if not records:
        first = next(iter(sorted(bad.items())), None)
        why = f"; line {first[0]}: {first[1]}" if first else ""
        raise DataError(f"{data}: no row can be used{why}")
    rejected = [Rejected(f"{data.name}:{line}", reason) for line, reason in sorted(bad.items())]
    return TableManifest(spec, records), rejected


def _targets(target: Column, table: RawTable) -> tuple[list[str], Mapping[int, InputError]]:
    """The target of each row as text, and the errors of rows."""
    if target.kind == "category":
        return _texts(target, table)
    values, errors = decode_column(target, _cells(table, target.name), table.notation, table.lines)
    return [repr(float(value)) for value in values], errors


def _texts(column: Column, table: RawTable) -> tuple[list[str], Mapping[int, InputError]]:
    """The category of each row, empty where it has none; and the errors of rows."""
    cells = _cells(table, column.name)
    codes, errors = decode_column(replace(column, may_be_missing=True), cells, table.notation, table.lines)
    return [text or "" for text in _categories(column, cells, codes)], errors


def _categories(column: Column, cells: Sequence[Any], codes: np.ndarray) -> Iterator[str | None]:
    """The category of each cell as the schema spells it; None where it has none, or is bad.

    Args:
        column: its schema.
        cells: of the column.
        codes: int64 (N,), of the decoder.
    """
    for cell, code in zip(cells, codes.tolist(), strict=True):
        if code == MISSING:
            yield None
        else:
            yield category_text(cell) if code == UNSEEN else column.categories[code - FIRST_CATEGORY]


def _requests(spec: TableSpec, table: RawTable, arrays: Any) -> Iterator[dict[str, Any]]:
    """The features of each row as JSON values, as a client would send them."""
    numbers = {column.name: number for number, column in enumerate(spec.numeric)}
    codes = {column.name: number for number, column in enumerate(spec.categorical)}
    columns: list[Sequence[Any]] = []
    for column in spec.features:
        cells = _cells(table, column.name) if column.name in (table.names or ()) else (None,) * len(table)
        if column.kind == "category":
            columns.append(list(_categories(column, cells, arrays[CODES][:, codes[column.name]])))
            continue
        values = arrays[NUMBERS][:, numbers[column.name]].tolist()
        columns.append([_as_json(column, value) for value in values])
    names = [column.name for column in spec.features]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _as_json(column: Column, value: float) -> Any:
    """One number, boolean or date as a client would write it."""
    if math.isnan(value):
        return None
    if column.kind == "number":
        return value
    if column.kind == "boolean":
        return bool(value)
    return date_text(value)


def _groups(spec: TableSpec, table: RawTable) -> tuple[list[str], Mapping[int, InputError]]:
    """The group of each row, empty where it has none; and the errors of rows."""
    column = next((column for column in spec.columns if column.role == "group"), None)
    if column is None or column.name not in (table.names or ()):
        return [""] * len(table), {}
    return _texts(Column(name=column.name, kind="category", role="group"), table)  # whichever kind is stated


def _times(spec: TableSpec, table: RawTable, bad: dict[int, str]) -> list[float]:
    """The time of each row; a row without one is added to ``bad``."""
    column = next((column for column in spec.columns if column.role == "time"), None)
    if column is None or column.name not in (table.names or ()):
        return [0.0] * len(table)
    values, errors = decode_column(column, _cells(table, column.name), table.notation, table.lines)
    for row in np.flatnonzero(np.isnan(values)).tolist():
        message = errors[row].message if row in errors else f"column {column.name!r}: the row has no time"
        bad.setdefault(table.lines[row], message)
    return [float(value) for value in values]


def _cells(table: RawTable, name: str) -> Sequence[Any]:
    return table.columns[(table.names or ()).index(name)]
