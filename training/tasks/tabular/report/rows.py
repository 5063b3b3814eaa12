"""Rows that a page lists one by one, each with the values of its features."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marquee.handlers.inputs.table.spec import Column
from marquee.handlers.inputs.table.values import date_text
from marquee.training.report.text import amount
from marquee.training.tasks.tabular.report.facts import TableFacts

MOST_COLUMNS = 10
"""Features that a table of rows shows; of more, the most important ones."""
_LONGEST = 60
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value as it is shown."""

    text: str
    outside: bool = False
    """Training saw no such value."""
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured row."""

    path: str
    answer: tuple[str, ...]
    """Under the table's headings."""
    cells: tuple[Cell, ...]
    """In the order of :attr:`RowTable.columns`."""


@dataclass(frozen=True, kw_only=True)
class RowTable:
    """Rows, and which of their features are shown."""

    headings: tuple[str, ...]
    """Of truth and answer."""
    columns: tuple[str, ...]
    all_columns: int
    """Number of the table's features."""
    rows: tuple[Row, ...]

    @property
    def has_unfamiliar(self) -> bool:
        """Whether a value that is shown lies outside of what training saw."""
        return any(cell.outside for row in self.rows for cell in row.cells)


@dataclass(frozen=True, kw_only=True)
class Unfamiliar:
    """A feature of a row that lies outside of what training saw."""

    column: str
    value: str
    seen: str


def row_table(facts: TableFacts, chosen: Sequence[int]) -> RowTable:
    """The measured rows at these places, with at most :data:`MOST_COLUMNS` features in the order of the table."""
    features = facts.table.features
    if len(features) > MOST_COLUMNS:
        important = facts.importances.columns if facts.importances else ()
        first = [column.column for column in important] or [column.name for column in features]
        shown = set(first[:MOST_COLUMNS])
    else:
        shown = {column.name for column in features}
    places = [place for place, column in enumerate(features) if column.name in shown]
    rows = []
    for number in chosen:
        record = facts.measured[number]
        values = json.loads(record.row)
        cells = [_cell(values.get(features[place].name), bool(facts.outside[number, place])) for place in places]
        rows.append(Row(path=record.path, answer=facts.answer(number), cells=tuple(cells)))
    names = tuple(features[place].name for place in places)
    return RowTable(headings=facts.answer_headings, columns=names, all_columns=len(features), rows=tuple(rows))


def unfamiliar_features(facts: TableFacts, number: int) -> list[Unfamiliar]:
    """What is unfamiliar of the measured row at this place."""
    values = json.loads(facts.measured[number].row)
    return [
        Unfamiliar(column=column.name, value=_cell(values.get(column.name)).text, seen=seen_text(column))
        for column, outside in zip(facts.table.features, facts.outside[number].tolist(), strict=True)
        if outside
    ]


def seen_text(column: Column) -> str:
    """What training saw in a column, such as ``18 to 41.3`` or ``Biscoe, Dream``."""
    if column.categories:
        shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in column.categories[:8]]
        more = len(column.categories) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")
    if column.low is None or column.high is None:
        return "true, false" if column.kind == "boolean" else "–"
    if column.kind == "date":
        return f"{date_text(column.low)} to {date_text(column.high)}"
    return f"{amount(column.low, _DIGITS)} to {amount(column.high, _DIGITS)}"


def _cell(value: Any, outside: bool = False) -> Cell:
    if value is None:
        return Cell(text="missing", missing=True)
    if isinstance(value, bool):
        return Cell(text=str(value).lower(), outside=outside)
    if isinstance(value, (int, float)):
        return Cell(text=amount(float(value), _DIGITS), outside=outside)
    text = str(value)
    return Cell(text=text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…", outside=outside)
