"""Cells -> float64 numbers and int64 category codes, column by column.

The only place where a cell becomes a value. Training and requests both come through here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from ...core.arrays import Arrays
from ...core.errors import InputError
from .cells import Notation, RawTable
from .errors import TableError
from .names import Names
from .notation import parse_number, parse_numbers
from .spec import CODES, FIRST_CATEGORY, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from .values import category_text, is_missing, parse_boolean, parse_date, quote

_FEW = 16
"""Rows up to which a column is read cell by cell: so few cost less than an array of them."""
_TOGETHER = {"number": frozenset({int, float}), "boolean": frozenset({bool})}
"""Kind of a column -> types of cells that numpy reads as :meth:`_ColumnDecoder._value` does, None among them."""
_HASHABLE = frozenset({str, bool, int, float, date, datetime})
_TO_LOOK_AT = -1
"""Code of a cell that has none yet."""


@dataclass(frozen=True)
class Decoded:
    """The rows of a table as an engine takes them."""

    arrays: Arrays
    """:data:`~.spec.NUMBERS`: float64 (N, numeric features) and :data:`~.spec.CODES`: int64 (N, categorical features),
    with a row for each row of the table, good or bad; an array without columns is left out. C-contiguous."""
    errors: list[InputError | None]
    """For each row its first error in the order of the schema; the values of that cell are NaN or MISSING."""


def decode(spec: TableSpec, table: RawTable) -> Decoded:
    """See :class:`Decoder`, which whoever decodes several tables makes once."""
    return Decoder(spec).decode(table)


def decode_column(
    column: Column, cells: Sequence[Any], notation: Notation | None, lines: Sequence[int]
) -> tuple[np.ndarray, dict[int, TableError]]:
    """The values of one column, of any role.

    Args:
        column: its schema.
        cells: of the column.
        notation: of the table.
        lines: of the table.

    Returns:
        float64 (N,), or int64 (N,) of codes for a category; and the errors of rows by their index.
    """
    return _ColumnDecoder(column).decode(cells, notation, lines)


class Decoder:
    """Decodes the features of tables of one schema. Safe to use from several threads.

    Args:
        spec: the schema.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.names = Names(spec)
        groups = {NUMBERS: (spec.numeric, np.float64), CODES: (spec.categorical, np.int64)}
        self._groups = {name: (columns, dtype) for name, (columns, dtype) in groups.items() if columns}
        self._columns = {column.name: _ColumnDecoder(column) for column in spec.features}

    def decode(self, table: RawTable, known: Mapping[int, InputError] | None = None) -> Decoded:
        """Decodes every row.

        Args:
            table: with names, of which the features are read, or without names and with the features' cells in the
                order of the schema.
            known: index of a row -> why it is bad already, which is then its error.

        Raises:
            TableError: the columns are not the schema's.
        """
        cells = self._cells(table)
        errors: dict[int, InputError] = dict(known or {})
        arrays = {}
        found: dict[str, dict[int, TableError]] = {}
        for name, (columns, dtype) in self._groups.items():
            arrays[name] = matrix = np.empty((len(table), len(columns)), dtype)
            for place, column in enumerate(columns):
                decoder = self._columns[column.name]
                given = cells[column.name]
                matrix[:, place], faults = decoder.decode(given, table.notation, table.lines)
                if faults:
                    found[column.name] = faults
        for name in self.names.features:
            for row, error in found.get(name, {}).items():
                errors.setdefault(row, error)
        return Decoded(arrays, [errors.get(row) for row in range(len(table))] if errors else [None] * len(table))

    def _cells(self, table: RawTable) -> dict[str, Sequence[Any]]:
        """The cells of every feature; None for those of a column that the table may leave out and does."""
        features = self.names.features
        if table.names is None:
            if len(table.columns) != len(features):
                wanted = f"{len(features)} cells in a row ({', '.join(features[:8])}{', ...' * (len(features) > 8)})"
                raise TableError("bad_table", f"expected {wanted}, got {len(table.columns)}")
            return dict(zip(features, table.columns, strict=True))
        self.names.check(table.names)
        given = dict(zip(table.names, table.columns, strict=True))
        nothing = (None,) * len(table)
        return {name: given.get(name, nothing) for name in features}


class _ColumnDecoder:
    """Decodes the cells of one column: all at once where they are alike, and those that are left one by one."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._codes = _codes(column.categories)
        self._is_category = column.kind == "category"
        self._nothing: float = MISSING if self._is_category else math.nan
        self._unknown: float = _TO_LOOK_AT if self._is_category else math.nan
        readers: dict[str, Callable[[Any, Notation | None], float]] = {
            "number": _number,
            "boolean": parse_boolean,
            "date": lambda cell, _: parse_date(cell),
            "category": self._code,
        }
        self._read = readers[column.kind]

    def decode(
        self, cells: Sequence[Any], notation: Notation | None, lines: Sequence[int]
    ) -> tuple[np.ndarray, dict[int, TableError]]:
        """See :func:`decode_column`."""
        if len(cells) <= _FEW:
            return self._one_by_one(cells, notation, lines)
        values = self._together(cells, notation)
        left = np.flatnonzero(values == _TO_LOOK_AT if self._is_category else ~np.isfinite(values))
        errors: dict[int, TableError] = {}
        may_be_missing = self._column.may_be_missing
        for row in left.tolist():
            cell = cells[row]
            if may_be_missing and (cell is None or (cell == "" and notation is not None)):
                values[row] = self._nothing  # as _value says, in a tenth of its time
            else:
                values[row] = self._value(cell, row, notation, lines, errors)
        if not self._is_category:
            values += 0.0  # -0.0 becomes 0.0: a parser of JSON reads -0 as the integer
        return values, errors

    def _one_by_one(
        self, cells: Sequence[Any], notation: Notation | None, lines: Sequence[int]
    ) -> tuple[np.ndarray, dict[int, TableError]]:
        errors: dict[int, TableError] = {}
        values = [self._value(cell, row, notation, lines, errors) for row, cell in enumerate(cells)]
        if self._is_category:
            return np.array(values, np.int64), errors
        return np.array(values, np.float64) + 0.0, errors

    def _value(
        self,
        cell: Any,
        row: int,
        notation: Notation | None,
        lines: Sequence[int],
        errors: dict[int, TableError],
    ) -> float:
        """The value of one cell; with an error in ``errors`` that of a missing one."""
        try:
            if cell is not None:
                return self._read(cell, notation)
            problem = None
        except ValueError as error:
            problem = str(error)
        if is_missing(cell, notation):
            if self._column.may_be_missing:
                return self._nothing
            code, problem = "missing_value", "a value is missing; each row must have one"
        else:
            code = "bad_value"
        place = f"{'row' if notation is None else 'line'} {lines[row]}, column {self._column.name!r}"
        errors[row] = TableError(code, f"{place}: {problem}")
        return self._nothing

    def _together(self, cells: Sequence[Any], notation: Notation | None) -> np.ndarray:
        """The values of all cells; NaN, infinite or :data:`_TO_LOOK_AT` for those that have to be read one by one."""
        types = set(map(type, cells))
        types.discard(type(None))
        together = _TOGETHER.get(self._column.kind)
        if together is not None and types <= together:
            try:
                return np.array(cells, np.float64)  # None becomes NaN
            except OverflowError:  # an integer that is above the range of float64
                return np.full(len(cells), math.nan)
        if self._column.kind == "number" and types == {str} and notation is not None:
            return _numbers_of_text(cells, notation)
        if len(types) == 1 and types <= _HASHABLE:
            return self._distinct(cells, notation)
        return np.full(len(cells), self._unknown, np.int64 if self._is_category else np.float64)

    def _distinct(self, cells: Sequence[Any], notation: Notation | None) -> np.ndarray:
        """Reads each of the values once, however many cells have it."""
        values: dict[Any, float] = {}
        for cell in set(cells):
            try:
                values[cell] = self._unknown if cell is None else self._read(cell, notation)
            except ValueError:
                values[cell] = self._unknown
        return np.array(list(map(values.__getitem__, cells)), np.int64 if self._is_category else np.float64)

    def _code(self, cell: Any, notation: Notation | None) -> int:
        """The code of a category.

        Raises:
            ValueError: the cell has no value, or is neither text nor number.
        """
        code = self._codes.get(cell) if isinstance(cell, str) else None
        if code is None:
            code = self._codes.get(category_text(cell))
        if code is not None:  # also where a category is called "NA"
            return code
        if is_missing(cell, notation):
            raise ValueError("a value is missing")
        return UNSEEN


def _codes(categories: Sequence[str]) -> dict[str, int]:
    """The code of each category, by its own text and by the one that every spelling of it has."""
    codes = {category: code for code, category in enumerate(categories, FIRST_CATEGORY)}
    for category in categories:  # of a bundle whose categories are not spelled so
        codes.setdefault(category_text(category), codes[category])
    return codes


def _number(cell: Any, notation: Notation | None) -> float:
    if isinstance(cell, str):
        if notation is None:
            raise ValueError(f"expected a number, got {quote(cell)}")
        try:
            return parse_number(cell, notation)
        except ValueError as error:
            reason = "" if str(error) == "is not a number" else f", which {error}"
            raise ValueError(f"expected a number, got {quote(cell)}{reason}") from error
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        try:
            value = float(cell)
        except OverflowError:
            raise ValueError(f"expected a number, got {quote(cell)}, which is too large") from None
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {quote(value)}; a missing value is written null")
        return value
    raise ValueError(f"expected a number, got {quote(cell)}")


def _numbers_of_text(cells: Sequence[Any], notation: Notation) -> np.ndarray:
    """The numbers that texts spell, NaN for those that spell none."""
    if None not in cells and (values := parse_numbers(cells, notation)) is not None:
        return values
    values = np.full(len(cells), math.nan)
    present = [row for row, cell in enumerate(cells) if cell]
    numbers = parse_numbers([cells[row] for row in present], notation)
    if numbers is None:
        present = [row for row in present if not is_missing(cells[row], notation)]
        numbers = parse_numbers([cells[row] for row in present], notation)
    if numbers is not None:
        values[present] = numbers
    return values
