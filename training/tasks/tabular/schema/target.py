"""The column that a model predicts: what it must be, and which rows have no value in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from marquee.handlers.inputs.table.cells import BadRow, RawTable
from marquee.handlers.inputs.table.decode import decode_column
from marquee.handlers.inputs.table.spec import TableSpec
from marquee.handlers.inputs.table.values import quote
from marquee.training.core.errors import DataError
from marquee.training.tasks.classification.names import listed, twins
from marquee.training.tasks.tabular.schema.kinds import ColumnValues, read_column, tolerated
from marquee.training.tasks.tabular.schema.notes import Note, first_line, option
from marquee.training.tasks.tabular.table_config import TableConfig

TaskKind = Literal["regression", "classification"]

FEW_NUMBERS = 20
"""Distinct numbers up to which they are taken for labels without a further look."""
_FEW_VALUES = 10
"""Distinct numbers up to which a target of a regression may have been meant as labels."""
_REGRESSION, _CLASSIFICATION = "--task tabular-regression", "--task tabular-classification"


def rows_without_target(table: RawTable, spec: TableSpec) -> list[BadRow]:
    """The rows that cannot be trained or evaluated on, since their target is missing or is no number.

    Args:
        table: as :func:`~marquee.training.tasks.tabular.schema.names.named` gives it.
        spec: the schema. A label that it does not know is no reason to leave a row out here.

    Raises:
        DataError: the table has no column of the target's name.
    """
    target = spec.target
    names = table.names or ()
    if target.name not in names:
        raise DataError(f"there is no column {target.name!r}, which is the target; add it to the table")
    cells = table.columns[names.index(target.name)]
    _, errors = decode_column(replace(target, may_be_missing=False), cells, table.notation, table.lines)
    return [BadRow(table.lines[row], errors[row].message) for row in sorted(errors)]


@dataclass(frozen=True)
class TargetReader:
    """Reads the target and finds out whether it can be one."""

    table: RawTable
    """With names."""
    config: TableConfig
    origin: str
    """The file, for messages."""

    def read(self, task: TaskKind) -> ColumnValues:
        """The target as numbers for a regression, and as categories for a classification.

        Raises:
            DataError: the column cannot be the target of such a task.
        """
        values = self._numbers() if task == "regression" else self._labels()
        if not values.present.any():
            raise self._error("has no values; name another one with " + option("target", "COLUMN"))
        if len(np.unique(values.values[values.present])) == 1:
            raise self._error("has the same value in every row; name another one with " + option("target", "COLUMN"))
        return values

    def notes(self, values: ColumnValues) -> list[Note]:
        """What people should know of the target that :meth:`read` returned."""
        texts = []
        if values.missing.any():
            texts.append(f"{values.missing.sum():,} rows have no value; they are left out")
        if values.bad.any():
            line = first_line(values.bad, self.table.lines)
            texts.append(f"{values.bad.sum():,} rows have a text, the first in line {line}; they are left out")
        notes = [Note("warning", values.name, text) for text in texts]
        _, counts = np.unique(values.values[values.present], return_counts=True)
        if values.kind == "number" and len(counts) <= _FEW_VALUES < counts.sum() / 2:
            text = f"has {len(counts)} distinct values; if they are labels, use {_CLASSIFICATION}"
            notes.append(Note("info", values.name, text))
        if values.kind == "category" and (alone := int((counts == 1).sum())):
            notes.append(Note("warning", values.name, f"{alone:,} of {len(counts):,} labels have a single row"))
        if values.kind == "category" and (found := twins(values.texts)):
            others = f", and so do {len(found) - 1:,} more" if len(found) > 1 else ""
            text = f"the labels {listed(found[0])} differ only in capitals, accents or blanks{others}; are they one?"
            notes.append(Note("warning", values.name, text))
        return notes

    def _numbers(self) -> ColumnValues:
        stated = self.config.kinds.get(self.config.target)
        if stated not in (None, "number"):
            raise self._error(f"is a {stated} by {option('kinds')}, but a regression predicts numbers")
        values = self._as("number")
        bad, total = int(values.bad.sum()), int((~values.missing).sum())
        # Whoever states that it is a column of numbers has seen its texts.
        if bad == total > 0 or (bad > tolerated(total) and stated is None):
            example = quote(self._cells[int(np.argmax(values.bad))])
            raise self._error(
                f"{bad:,} of its {total:,} values are not numbers, the first is {example} in line "
                f"{first_line(values.bad, self.table.lines)}; correct them, or use {_CLASSIFICATION} for labels"
            )
        return values

    def _labels(self) -> ColumnValues:
        stated = self.config.kinds.get(self.config.target)
        if stated not in (None, "category"):
            raise self._error(f"is a {stated} by {option('kinds')}, but the labels of a classification are a category")
        values = self._as("category")
        if stated is None:
            self._check_labels(values)
        return values

    def _check_labels(self, values: ColumnValues) -> None:
        """Raises DataError for a target that is no column of labels."""
        labels, rows, most = len(values.texts), int(values.present.sum()), self.config.max_categories
        numbers = self._as("number")
        known = numbers.values[numbers.present]
        keep = f"if they are labels, add {option('kinds', values.name, 'category')}"
        if not numbers.bad.any() and labels > FEW_NUMBERS:
            fractions = bool((known != np.floor(known)).any())
            if fractions or labels > most or labels > rows / 4:
                raise self._error(f"has {labels:,} distinct numbers in {rows:,} rows; use {_REGRESSION}, or, {keep}")
        if labels > most:
            raise self._error(f"has {labels:,} labels, but {option('max-categories')} is {most}; raise it")
        if labels > FEW_NUMBERS and labels > rows / 2:
            raise self._error(f"has {labels:,} distinct values in {rows:,} rows; {keep}, or name another target")

    @property
    def _cells(self) -> Sequence[Any]:
        return self.table.columns[(self.table.names or ()).index(self.config.target)]

    def _as(self, kind: str) -> ColumnValues:
        return read_column(self.config.target, self._cells, self.table.notation, kind)

    def _error(self, text: str) -> DataError:
        return DataError(f"{self.origin}: column {self.config.target!r}, the target: {text}")
