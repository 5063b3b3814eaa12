"""The kind of a column: as it is stated, or as its cells suggest; and its cells read as that kind."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from marquee.handlers.inputs.table.cells import Notation
from marquee.handlers.inputs.table.spec import Kind
from marquee.handlers.inputs.table.values import category_text, quote
from marquee.training.tasks.tabular.schema.distinct import Distinct
from marquee.training.tasks.tabular.schema.notes import Note

BAD_SHARE = 0.01
"""Share of a column's cells that may be no numbers (or no dates) while it still is a column of numbers (or dates)."""
MOST_BAD = 1000
"""Number of such cells above which it is not, however small their share."""
ONE_BAD_FROM = 20
"""Number of cells from which on a single one may be bad, although it is more than that share."""

_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
_DIGITS = re.compile(r"[+-]?[0-9]+")
_DAY = re.compile(r"[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{1,4}\b.*")
_SAMPLE = 100
"""Different cells of which half must be of a kind before all are read as it."""


@dataclass(frozen=True, kw_only=True)
class ColumnValues:
    """The cells of one column, read."""

    name: str
    kind: Kind
    missing: np.ndarray
    """bool (N,): cells without a value."""
    bad: np.ndarray
    """bool (N,): cells that are no value of this kind; the decoder refuses their rows."""
    values: np.ndarray
    """float64 (N,) of numbers, booleans and dates, NaN where missing or bad; of categories int64 (N,), the position in
    :attr:`texts`, -1 where missing or bad."""
    texts: tuple[str, ...] = ()
    """The different categories, in the order of their first rows."""
    note: Note | None = None
    """Why it is of this kind, where that may surprise."""

    @property
    def present(self) -> np.ndarray:
        """Which cells have a value of this kind, bool (N,)."""
        present: np.ndarray = ~(self.missing | self.bad)
        return present


def read_column(name: str, cells: Sequence[Any], notation: Notation | None, stated: str | None = None) -> ColumnValues:
    """Reads one column.

    Args:
        name: of the column.
        cells: one a row.
        notation: of the table.
        stated: its kind; every cell that is of another one is bad. None: see :func:`infer_kind`.
    """
    distinct = Distinct.of(cells, notation)
    kind, note = (cast(Kind, stated), None) if stated else infer_kind(name, distinct, notation)
    texts: tuple[str, ...] = ()
    if kind == "category":
        values, bad, texts = _categories(distinct)
    else:
        values, bad = distinct.read_as(kind, notation)
    return ColumnValues(
        name=name,
        kind=kind,
        missing=distinct.missing[distinct.codes],
        bad=bad[distinct.codes],
        values=values[distinct.codes],
        texts=texts,
        note=note,
    )


def infer_kind(name: str, distinct: Distinct, notation: Notation | None) -> tuple[Kind, Note | None]:
    """The kind that cells suggest, and why where that may surprise.

    A column is of numbers if its cells are, even if they are only 0 and 1; of booleans if they are true and false, or
    yes and no; of dates if they are dates in ISO 8601; else of categories. A few bad cells do not make a column of
    numbers or dates one of categories (:data:`BAD_SHARE`). Digits with leading zeros are categories, such as the zip
    code ``01234``: as a number it would lose the zero.

    Args:
        name: of the column.
        distinct: its cells.
        notation: of the table.
    """
    if distinct.missing.all():
        return "category", None
    if may_be(distinct, "number", notation):
        if zeros := _leading_zeros(distinct, notation):
            text = f"digits with leading zeros, such as {quote(zeros)}, are a category, not a number"
            return "category", Note("info", name, text)
        return "number", None
    if _is_boolean(distinct, notation):
        return "boolean", None
    if may_be(distinct, "date", notation):
        return "date", None
    text = _near_miss(distinct, notation)
    return "category", Note("warning", name, text) if text else None


def may_be(distinct: Distinct, kind: Kind, notation: Notation | None) -> bool:
    """Whether a column is one of numbers or dates, but for the few cells that may be bad."""
    if len(distinct.cells) > 2 * _SAMPLE:
        # Reading many texts as numbers takes long, and almost none of them is one.
        sample = distinct.first(_SAMPLE)
        _, bad = sample.read_as(kind, notation)
        if bad.sum() > _SAMPLE / 2:
            return False
    _, bad = distinct.read_as(kind, notation)
    return distinct.rows(bad) <= tolerated(distinct.rows(~distinct.missing))


def tolerated(cells: int) -> int:
    """How many bad cells a column with this many values may have."""
    return max(min(int(cells * BAD_SHARE), MOST_BAD), int(cells >= ONE_BAD_FROM))


def _is_boolean(distinct: Distinct, notation: Notation | None) -> bool:
    _, bad = distinct.first(_SAMPLE).read_as("boolean", notation)
    return len(distinct.cells) <= _SAMPLE and not bad.any()


def _categories(distinct: Distinct) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """int64 (D,) and bool (D,) as in :class:`ColumnValues`, and the categories."""
    positions: dict[str, int] = {}
    values = np.full(len(distinct.cells), -1, np.int64)
    for number in np.flatnonzero(~distinct.missing).tolist():
        try:
            values[number] = positions.setdefault(category_text(distinct.cells[number]), len(positions))
        except ValueError:
            continue
    return values, (values < 0) & ~distinct.missing, tuple(positions)


def _leading_zeros(distinct: Distinct, notation: Notation | None) -> str | None:
    """The first number with a leading zero of a column of digits; None where there is none."""
    if notation is None:
        return None
    texts = [str(cell) for cell, missing in zip(distinct.cells, distinct.missing, strict=True) if not missing]
    found = next(filter(_LEADING_ZERO.fullmatch, texts), None)
    return found if found and all(map(_DIGITS.fullmatch, texts)) else None


def _near_miss(distinct: Distinct, notation: Notation | None) -> str:
    """Says of a column of categories that most of its cells are numbers, or that they are dates of another form."""
    total = distinct.rows(~distinct.missing)
    _, bad = distinct.first(_SAMPLE).read_as("number", notation)
    if bad.sum() < len(bad) / 2:
        _, bad = distinct.read_as("number", notation)
        others = distinct.rows(bad)
        if others < total / 2:
            example = quote(distinct.cells[int(np.argmax(bad))])
            return f"{total - others:,} of {total:,} values are numbers, and the others are not, such as {example}"
    day = next((cell for cell in distinct.cells[:_SAMPLE] if isinstance(cell, str) and _DAY.fullmatch(cell)), None)
    return f"values such as {quote(day)} are dates only if written as 2024-02-29" if day else ""
