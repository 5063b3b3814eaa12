"""A schema for the terminal."""

from collections import Counter
from collections.abc import Sequence

from marquee.handlers.inputs.table.spec import Column
from marquee.handlers.inputs.table.values import date_text
from marquee.training.tasks.tabular.schema.infer import Schema

MOST_LINES = 40
"""Columns, and notes, up to which each has a line of its own."""
_LONGEST_NAME = 32
_LONGEST_VALUES = 48


def describe(schema: Schema) -> list[str]:
    """A table of the columns, with the notes below it.

    Of a table of more than :data:`MOST_LINES` columns, those that are neither target, group nor time and have no note
    are counted by role and kind.

    Returns:
        Lines without line ends. Characters that would control a terminal are escaped.
    """
    columns = list(zip(schema.spec.columns, schema.missing, strict=True))
    rest: list[str] = []
    if len(columns) > MOST_LINES:
        noted = {note.column for note in schema.notes}
        shown = [pair for pair in columns if pair[0].name in noted or pair[0].role in ("target", "group", "time")]
        columns = shown[:MOST_LINES]
        rest = _counted([column for column in schema.spec.columns if column not in [shown for shown, _ in columns]])
    lines = [_cells(column, missing, schema.rows) for column, missing in columns]
    table = _aligned([("column", "role", "kind", "values", "missing"), *lines])
    return [f"{schema.rows:,} rows, {len(schema.spec.columns):,} columns", *table, *rest, *_notes(schema)]


def _cells(column: Column, missing: int, rows: int) -> tuple[str, ...]:
    values = _values(column) + (f" {column.unit}" if column.unit else "")
    absent = f"{missing:,} ({missing / rows:.1%})" if missing else "allowed" if column.may_be_missing else "-"
    return (_cut(column.name, _LONGEST_NAME), column.role, column.kind, _cut(values, _LONGEST_VALUES), absent)


def _values(column: Column) -> str:
    """The range, or the number of categories and the first of them."""
    if column.low is not None and column.high is not None:
        low, high = map(date_text if column.kind == "date" else _number, (column.low, column.high))
        return low if low == high else f"{low} to {high}"
    if column.categories:
        return f"{len(column.categories):,}: {', '.join(column.categories)}"
    return "true, false" if column.kind == "boolean" and column.role != "ignore" else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.6g}"


def _counted(columns: Sequence[Column]) -> list[str]:
    """How many columns there are of each role and kind, with the first and the last name."""
    lines = []
    for (role, kind), count in Counter((column.role, column.kind) for column in columns).items():
        names = [_cut(c.name, _LONGEST_NAME) for c in columns if (c.role, c.kind) == (role, kind)]
        listed = ", ".join(names) if count <= 3 else f"{names[0]}, {names[1]}, ..., {names[-1]}"
        lines.append(f"{count:,} more: {role}, {kind}: {listed}")
    return lines


def _notes(schema: Schema) -> list[str]:
    lines = [f"{note.level}: {_printable(str(note))}" for note in schema.notes]
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"and {more:,} more notes"] if more > 0 else lines


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines]


def _cut(text: str, length: int) -> str:
    text = _printable(text[: 4 * length])
    return text if len(text) <= length else text[: length - 3] + "..."


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
