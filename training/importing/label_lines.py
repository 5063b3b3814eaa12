"""Class names in lines of text: a name, an index and a name, or a table with both."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.errors import TrainingError
from marquee.training.importing.label_entries import FORMS, Entry

_INDEXED = re.compile(r"(\d+)(?:\s*:\s*|\s+)(\S.*)")
"""``0 cat`` of Teachable Machine, ``0: cat`` of TensorFlow Lite."""
_SEPARATORS = ("\t", ";", ",")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class _Line:
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"line {self.number}"


def line_entries(path: Path, text: str) -> list[Entry]:
    """The class names of a text file; blank lines at its end are left out.

    Raises:
        TrainingError: some lines have an index and others do not, or a row has not two columns.
    """
    lines = [_Line(number, line.strip()) for number, line in enumerate(text.rstrip().splitlines(), start=1)]
    if (rows := _rows(path, lines)) is not None:
        return _table_entries(path, rows)
    matches = [_INDEXED.fullmatch(line.text) for line in lines]
    # A name may begin with a number of its own: `7 up` among names without one.
    if 2 * sum(match is not None for match in matches) <= len(lines):
        return [Entry(line.text, f"entry {line.number}") for line in lines]
    entries = []
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            raise TrainingError(
                f"--labels {path}: {line.place} ({line.text!r}) has no index, but others begin with one; give each an "
                "index, or write a JSON list if the numbers are part of the names"
            )
        entries.append(Entry(match[2], line.place, int(match[1])))
    return entries


def _rows(path: Path, lines: Sequence[_Line]) -> list[tuple[_Line, list[str]]] | None:
    """The cells of a table, or None: commas inside of names do not make one."""
    for separator in _SEPARATORS:
        cells = [next(csv.reader([line.text], delimiter=separator), []) for line in lines]
        numbered = [any(_NUMBER.fullmatch(cell.strip()) for cell in row) and len(row) > 1 for row in cells]
        # The first line may be a header.
        if sum(numbered) > len(lines) / 2 or (len(lines) > 1 and sum(numbered) >= len(lines) - 1):
            return [(line, [cell.strip() for cell in row]) for line, row in zip(lines, cells, strict=True)]
    if path.suffix.lower() in (".csv", ".tsv") and any(len(row) > 1 for row in map(_commas, lines)):
        raise TrainingError(f"--labels {path}: its rows have no index; expected the columns index and name, or {FORMS}")
    return None


def _commas(line: _Line) -> list[str]:
    return next(csv.reader([line.text], delimiter=","), [])


def _table_entries(path: Path, rows: Sequence[tuple[_Line, list[str]]]) -> list[Entry]:
    header = rows[0][1]
    body = rows[1:] if not any(_NUMBER.fullmatch(cell) for cell in header) else rows
    for line, row in rows:
        if len(row) != 2:
            raise TrainingError(
                f"--labels {path}: {line.place} has {len(row)} columns; expected an index and a name, with quotes "
                "around a name that contains the separator"
            )
    # Names may be numbers as well: the first column is then taken as the index.
    first = sum(bool(_NUMBER.fullmatch(row[0])) for _, row in body) >= sum(
        bool(_NUMBER.fullmatch(row[1])) for _, row in body
    )
    entries = []
    for line, row in body:
        index, name = row if first else row[::-1]
        if not _NUMBER.fullmatch(index):
            raise TrainingError(f"--labels {path}: {line.place} has the index {index!r}; expected a number from 0")
        entries.append(Entry(name, line.place, int(index)))
    return entries
