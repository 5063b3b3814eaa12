"""Rows and columns of JSON -> the cells of a table; a row that cannot be one has an error of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from .cells import RawTable
from .errors import TableError
from .names import Names
from .values import quote

_HINTS = 8
"""Kinds of rows of one request whose unknown names are compared with the schema's; the others get a shorter message."""


@dataclass(frozen=True)
class Rows:
    """The rows of one request."""

    table: RawTable
    """A row for each of them; the cells of a bad one are None."""
    errors: Mapping[int, TableError] = field(default_factory=dict)
    """Index of a bad row -> its error."""


def from_rows(values: Sequence[Any], names: Names) -> Rows:
    """Rows as lists of the features' cells in the order of the schema, or as objects of column names.

    Args:
        values: JSON values, at least one; an error in the place of one that could not be parsed.
        names: of the schema.
    """
    columns = _alike_lists(values, len(names.features)) or _alike_objects(values, names.features)
    if columns is not None:
        return Rows(_table(columns, len(values)))
    reader = _RowReader(names.features, names)
    return reader.read(values)


def from_split(names: Sequence[Any], data: Sequence[Any], known: Names) -> Rows:
    """Names of the columns, and rows as lists of their cells.

    Args:
        names: of the columns in ``data``.
        data: JSON values, at least one.
        known: of the schema.

    Raises:
        TableError: the columns are not the schema's.
    """
    _check_names(names, known)
    columns = _alike_lists(data, len(names))
    rows = Rows(_table(columns, len(data))) if columns is not None else _RowReader(tuple(names), known).read(data)
    table = rows.table
    return Rows(RawTable(tuple(names), table.columns, table.lines), rows.errors)


def from_columns(columns: Mapping[str, Any], known: Names) -> Rows:
    """``{name: [a value for each row]}``.

    Raises:
        TableError: the columns are not the schema's, or are no lists of the same length.
    """
    if not columns:
        raise TableError("bad_table", "expected columns, got an object without any")
    _check_names(tuple(columns), known)
    first, *others = columns
    for name, cells in columns.items():
        if not isinstance(cells, list):
            raise TableError("bad_table", f"column {name!r}: expected a list with a value for each row")
    rows = len(columns[first])
    for name in others:
        if len(columns[name]) != rows:
            got = f"column {first!r} has {rows} values, and column {name!r} {len(columns[name])}"
            raise TableError("bad_table", f"{got}; send as many for each column")
    return Rows(RawTable(tuple(columns), tuple(columns.values()), range(1, rows + 1)))


def _check_names(names: Sequence[Any], known: Names) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TableError("bad_table", f"expected the names of the columns, got {quote(name)} among them")
    known.check(names)


def _table(columns: Sequence[Sequence[Any]], rows: int) -> RawTable:
    return RawTable(None, tuple(columns), range(1, rows + 1))


def _alike_lists(values: Sequence[Any], width: int) -> list[Sequence[Any]] | None:
    """The columns of rows that are lists of this many cells, which most requests have; None if one is not."""
    if set(map(type, values)) == {list} and set(map(len, values)) == {width}:
        return list(zip(*values, strict=True))
    return None


def _alike_objects(values: Sequence[Any], names: Sequence[str]) -> list[Sequence[Any]] | None:
    """The columns of rows that are objects of exactly these names; None if one is not."""
    if set(map(type, values)) != {dict} or set(map(len, values)) != {len(names)}:
        return None
    try:
        return [list(map(itemgetter(name), values)) for name in names]
    except KeyError:
        return None


class _RowReader:
    """Reads rows one by one: any mixture of lists and objects, some of which may be bad.

    Args:
        names: of the cells of a row that is a list.
        known: of the schema.
    """

    def __init__(self, names: tuple[str, ...], known: Names) -> None:
        self._names = names
        self._known = known
        self._faults: dict[tuple[str, ...], TableError | None] = {}
        """What is wrong with the names of an object: rows of one request tend to have the same."""

    def read(self, values: Sequence[Any]) -> Rows:
        cells: list[Sequence[Any]] = []
        errors: dict[int, TableError] = {}
        nothing = (None,) * len(self._names)
        for index, value in enumerate(values):
            row = self._cells(value)
            if isinstance(row, TableError):
                errors[index] = TableError(row.code, f"row {index + 1}: {row.message}")
                row = nothing
            cells.append(row)
        return Rows(_table(list(zip(*cells, strict=True)), len(cells)), errors)

    def _cells(self, value: Any) -> Sequence[Any] | TableError:
        if isinstance(value, dict):
            fault = self._fault(tuple(value))
            return fault if fault is not None else list(map(value.get, self._names))
        if isinstance(value, TableError):
            return value
        if not isinstance(value, list):
            return TableError("bad_request", f"expected a list of cells or an object of columns, got {quote(value)}")
        if len(value) != len(self._names):
            return TableError("bad_request", f"expected {len(self._names)} cells, got {len(value)}")
        return value

    def _fault(self, names: tuple[str, ...]) -> TableError | None:
        if names not in self._faults:
            try:
                self._known.check(names, hint=len(self._faults) < _HINTS)
            except TableError as error:
                self._faults[names] = error
            else:
                self._faults[names] = None
        return self._faults[names]
