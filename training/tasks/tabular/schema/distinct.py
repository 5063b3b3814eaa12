"""The cells of a column, each different one once: what is asked of a cell is asked of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from marquee.handlers.inputs.table.cells import Notation
from marquee.handlers.inputs.table.decode import decode_column
from marquee.handlers.inputs.table.spec import Column, Kind
from marquee.handlers.inputs.table.values import is_missing

_CELLS = frozenset({str, int, float, bool, type(None), date, datetime})


class Unreadable:
    """Stands for every cell that is nothing that a table holds, such as a list or bytes."""


UNREADABLE = Unreadable()


class _Boolean(NamedTuple):
    """Is unlike the number that it equals."""

    cell: bool


@dataclass(frozen=True)
class Distinct:
    """The different cells of one column, and which of them each row has."""

    cells: tuple[Any, ...]
    """The cells (D), in the order of their first rows; True and 1 are different ones."""
    codes: np.ndarray
    """int64 (N,): for each row the position of its cell in :attr:`cells`."""
    missing: np.ndarray
    """bool (D,): which of the cells are no value."""

    @classmethod
    def of(cls, cells: Sequence[Any], notation: Notation | None) -> "Distinct":
        """Finds the different cells of a column.

        Args:
            cells: one a row, as :class:`~marquee.handlers.inputs.table.cells.RawTable` holds them.
            notation: of the table; texts of a table that has one are stripped.
        """
        keys: Sequence[Any] = _typed_keys(cells) if notation is None else [cell.strip() for cell in cells]
        positions = {key: position for position, key in enumerate(dict.fromkeys(keys))}
        codes = np.fromiter(map(positions.__getitem__, keys), np.int64, len(keys))
        different = tuple(key.cell if isinstance(key, _Boolean) else key for key in positions)
        missing = np.fromiter((is_missing(cell, notation) for cell in different), bool, len(different))
        return cls(different, codes, missing)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 (D,): how many rows have each cell."""
        return np.bincount(self.codes, minlength=len(self.cells))

    def read_as(self, kind: Kind, notation: Notation | None) -> tuple[np.ndarray, np.ndarray]:
        """Reads the cells as the decoder does.

        Args:
            kind: number, boolean or date.
            notation: of the table.

        Returns:
            float64 (D,), NaN for missing and bad cells; and bool (D,), which of them are no value of this kind.
        """
        column = Column(name="column", kind=kind, role="ignore", may_be_missing=True)
        values, errors = decode_column(column, self.cells, notation, range(1, len(self.cells) + 1))
        bad = np.zeros(len(self.cells), bool)
        bad[list(errors)] = True
        return values, bad

    def first(self, count: int) -> "Distinct":
        """The first ``count`` of them, as if each had one row."""
        missing = self.missing[:count]
        return Distinct(self.cells[:count], np.arange(len(missing)), missing)

    def rows(self, cells: np.ndarray) -> int:
        """How many rows have one of the cells that are chosen, bool (D,)."""
        return int(self.counts[cells].sum())


def _typed_keys(cells: Sequence[Any]) -> Sequence[Any]:
    """What tells cells with types of their own apart: mostly they do themselves."""
    types = set(map(type, cells))
    if types <= _CELLS and not (bool in types and types & {int, float}):
        return cells
    return [
        UNREADABLE if type(cell) not in _CELLS else _Boolean(cell) if isinstance(cell, bool) else cell for cell in cells
    ]
