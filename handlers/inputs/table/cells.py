"""RawTable: the cells of a table as a file or a request spells them, before a schema gives them a meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Notation:
    """How numbers are written in the text of a table."""

    decimal: str = "."
    """``.`` or ``,``."""
    thousands: str = ""
    """What separates thousands: nothing, ``,``, ``.``, ``'``, a space, a no-break space or a narrow one."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read as one."""

    line: int
    """Line of the file on which it begins, 1 for the first."""
    reason: str


@dataclass(frozen=True)
class RawTable:
    """Cells by column. Every column has the same number of cells."""

    names: tuple[str, ...] | None
    """Names of the columns, stripped; None for a table without a header."""
    columns: tuple[Sequence[Any], ...]
    """For each column a cell a row: str, int, float, bool, None, datetime.date or datetime.datetime."""
    lines: Sequence[int]
    """For each row the line (text), or the number (JSON, Parquet), at which it begins; 1 for the first."""
    notation: Notation | None = None
    """How numbers are spelled where all cells are text (CSV): an empty cell is then a missing value, and ``12.5`` a
    number. None where cells have types of their own (JSON, Parquet): a text where a number belongs is an error."""
    rejected: tuple[BadRow, ...] = ()
    """Rows that were left out, in the order of the file."""

    def __len__(self) -> int:
        return len(self.lines)
