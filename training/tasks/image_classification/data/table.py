"""A table of images, CSV or Parquet, with the columns ``path,label[,split][,group]``."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.table.encoding import decode_text
from marquee.handlers.inputs.table.options import SEPARATORS, TextOptions
from marquee.handlers.inputs.table.records import Records, read_records
from marquee.handlers.inputs.table.separator import detect_separator, stated_inside
from marquee.training.core.errors import DataError
from marquee.training.tasks.classification.names import canonical, listed
from marquee.training.tasks.image_classification.data.listing import SPLIT_ALIASES
from marquee.training.tasks.image_classification.data.manifest import SEPARATOR, Record

TEXT_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
NO_VALUE = frozenset({"", "nan", "nat", "null", "n/a", "#n/a", "<na>"})
"""Texts that stand for a missing value, in any case. ``none`` and ``NA`` are names that classes have."""
_COLUMNS = ("path", "label", "split", "group")
_NEEDED = ("path", "label")
_EXPECTED = "expected path,label[,split][,group]"


@dataclass(frozen=True)
class _Rows:
    """The cells of the columns that are known, and where each row lies."""

    cells: Sequence[dict[str, Any]]
    places: Sequence[str]
    """Such as ``line 2``."""


def is_table(data: Path) -> bool:
    """Whether a data set is a table: a file with the suffix of one."""
    return data.suffix.lower() in (*TEXT_SUFFIXES, *PARQUET_SUFFIXES) and data.is_file()


def list_table(table: Path) -> list[Record]:
    """The images of a table, in its order.

    Labels and groups are compared in Unicode's NFC, without blanks around them.

    Raises:
        DataError: the table cannot be read, or a row of it; the message names the first one, and how many there are.
    """
    rows = _read_parquet(table) if table.suffix.lower() in PARQUET_SUFFIXES else _read_text(table)
    records, faults = [], []
    for cells, place in zip(rows.cells, rows.places, strict=True):
        try:
            records.append(_record(table, cells))
        except ValueError as error:
            faults.append(f"{place} {error}")
    if faults:
        raise _faulty(table, faults)
    if not records:
        raise DataError(f"{table}: has no rows; expected one for each image")
    return records


def _record(table: Path, cells: dict[str, Any]) -> Record:
    path = _text(cells.get("path"))
    # Not `or ""`: the number 0 is a label.
    label, group = (canonical(_text(cells.get(name))) for name in ("label", "group"))
    split = _text(cells.get("split")).lower()
    if _is_missing(path):
        raise ValueError(f"has no path{_as_given(path)}")
    parts = [part.strip() for part in label.split(SEPARATOR)]
    if _is_missing(label) or any(part and _is_missing(part) for part in parts):
        raise ValueError(f"has no label{_as_given(label)}")
    split = "" if _is_missing(split) else split
    if split and split not in SPLIT_ALIASES:
        raise ValueError(f"has the split {split!r}; expected train, val or test, or nothing")
    group = "" if _is_missing(group) else group
    return Record(str(table.parent / path), label, SPLIT_ALIASES.get(split, ""), group=group)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _is_missing(text: str) -> bool:
    return text.lower() in NO_VALUE


def _as_given(text: str) -> str:
    return f" ({text!r})" if text else ""


def _faulty(table: Path, faults: Sequence[str]) -> DataError:
    others = f"; {len(faults):,} rows in all cannot be used" if len(faults) > 1 else ""
    return DataError(f"{table}: {faults[0]}{others}; correct them, or remove the rows")


# --- CSV


def _read_text(table: Path) -> _Rows:
    try:
        text = decode_text(table.read_bytes(), TextOptions())
        stated, text = stated_inside(text)
        separator, header = _header(text, stated)
        records = read_records(text, separator or stated or detect_separator(text))
    except InputError as error:
        raise DataError(f"{table}: not readable as CSV: {error.message}") from error
    except OSError as error:
        raise DataError(f"{table}: not readable: {error.strerror or error}") from error
    rows = list(zip(records.cells, records.lines, strict=True))
    if header:
        rows = rows[1:]
    else:
        header = _without_header(table, records)
    faults = [f"line {row.line}: {row.reason}" for row in records.rejected]
    faults += [fault for cells, line in rows if (fault := _irregular(cells, line, len(header)))]
    if faults:
        raise _faulty(table, faults)
    columns = _known(table, header)
    cells = [{name: row[place] for name, place in columns.items() if place < len(row)} for row, _ in rows]
    return _Rows(cells, [f"line {line}" for _, line in rows])


def _header(text: str, stated: str | None) -> tuple[str, list[str]]:
    """The separator that gives the first line the needed columns, and that line; empty where there is none."""
    for separator in (stated,) if stated else SEPARATORS.values():
        first = read_records(text, separator, most=1).cells
        if first and set(_NEEDED) <= {_name(cell) for cell in first[0]}:
            return separator, first[0]
    return "", []


def _without_header(table: Path, records: Records) -> list[str]:
    """The header of a table that has none: two columns, the first of which names files."""
    first = records.cells[0] if records.cells else []
    if not first:
        raise DataError(f"{table}: has no column label and path; the file is empty; {_EXPECTED}")
    named = [cell for cell in first if (table.parent / cell.strip()).is_file()]
    if len(first) == 2 and named == first[:1]:
        return list(_NEEDED)
    if named:
        raise DataError(
            f"{table}: has no header: line {records.lines[0]} names a file; "
            "add a first line with the names of the columns, such as path,label or path,label,split"
        )
    missing = sorted(set(_NEEDED) - {_name(cell) for cell in first})
    raise DataError(
        f"{table}: no column {' and '.join(missing)}; the first line has {listed([cell.strip() for cell in first])}; "
        f"{_EXPECTED}"
    )


def _irregular(cells: Sequence[str], line: int, width: int) -> str:
    """What is wrong with the number of cells of a row; empty ones at its end do not count."""
    given = len(cells)
    while given > width and not cells[given - 1].strip():
        given -= 1
    if given <= width:
        return ""
    return f"line {line} has {given} cells, but the header has {width}; put names with a separator into quotes"


def _known(table: Path, header: Sequence[str]) -> dict[str, int]:
    """The place of each column that means something."""
    names = [_name(cell) for cell in header]
    if twice := next((name for name in _COLUMNS if names.count(name) > 1), None):
        raise DataError(f"{table}: two columns are called {twice!r}; rename one of them")
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _name(cell: Any) -> str:
    return unicodedata.normalize("NFKC", str(cell)).strip().lower()


# --- Parquet


def _read_parquet(table: Path) -> _Rows:
    try:
        import pyarrow.parquet  # heavy, and only for this format
    except ImportError as error:
        raise DataError(f"{table}: Parquet needs pyarrow; pip install 'marquee[parquet]'") from error
    try:
        content = pyarrow.parquet.read_table(table)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{table}: not readable as Parquet: {error}") from error
    columns = _known(table, content.column_names)
    if missing := sorted(set(_NEEDED) - set(columns)):
        raise DataError(
            f"{table}: no column {' and '.join(missing)}; it has {listed(content.column_names)}; {_EXPECTED}"
        )
    values = {name: content.column(place).to_pylist() for name, place in columns.items()}
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return _Rows(rows, [f"row {number}" for number in range(1, len(rows) + 1)])
