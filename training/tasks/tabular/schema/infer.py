"""Cells of a table -> its schema: the role and the kind of each column, what it has been seen to hold, and remarks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from marquee.handlers.inputs.table.cells import RawTable
from marquee.handlers.inputs.table.spec import Column, Role, TableSpec
from marquee.handlers.inputs.table.values import quote
from marquee.training.core.errors import DataError
from marquee.training.tasks.tabular.schema.checks import is_mostly_unique, names_groups
from marquee.training.tasks.tabular.schema.kinds import ColumnValues, read_column
from marquee.training.tasks.tabular.schema.leakage import why_leakage
from marquee.training.tasks.tabular.schema.names import check_names, check_stated, named, nameless
from marquee.training.tasks.tabular.schema.notes import Note, option
from marquee.training.tasks.tabular.schema.roles import RoleFinder
from marquee.training.tasks.tabular.schema.seen import column_of
from marquee.training.tasks.tabular.schema.target import TargetReader, TaskKind
from marquee.training.tasks.tabular.table_config import TableConfig


@dataclass(frozen=True)
class Schema:
    """The schema of a table, and what people should know of it before they train."""

    spec: TableSpec
    """All columns of the table, in its order."""
    notes: tuple[Note, ...]
    """Remarks in the order of the columns; the same for equal tables and settings."""
    rows: int
    """Rows of the table, with those that have no target."""
    missing: tuple[int, ...]
    """For each column of the table the number of its cells that have no value."""


def infer_schema(table: RawTable, config: TableConfig, task_kind: TaskKind, origin: str) -> Schema:
    """Infers what is not stated.

    A column gets the role that the settings give it. Of the others, constants, identifiers and texts with too many
    different values are ignored, with a warning; the rest are features. A column that looks as if it gave the target
    away stays a feature, with a warning: whether it is known at the time of a prediction is for people to say.

    Ranges, categories and whether values may be missing are those of the rows that can be used: rows without a target
    or a time, and rows that are refused since a cell of a feature or of the group is bad, do not count. Of columns that
    the model does not get, no categories are kept.

    Args:
        table: as it was read; a column without a name gets one (:func:`named`).
        config: what is stated.
        task_kind: ``regression``: the target is a number; ``classification``: a category, whose labels are its
            categories, in natural order.
        origin: the file, for messages.

    Raises:
        DataError: the table and the settings give no schema; the message says what to change.
    """
    if not len(table) or not table.columns:
        first = f"; line {table.rejected[0].line}: {table.rejected[0].reason}" if table.rejected else ""
        raise DataError(f"{origin}: no rows to train on{first or '; expected a line for each row below the names'}")
    without_names = nameless(table)
    table = named(table)
    names = cast(tuple[str, ...], table.names)
    check_names(names, origin)
    check_stated(names, config, origin)
    return _Inference(table, config, origin, without_names).infer(task_kind)


@dataclass(frozen=True)
class _Inference:
    """The work of :func:`infer_schema` on a table with names."""

    table: RawTable
    config: TableConfig
    origin: str
    nameless: frozenset[int]

    def infer(self, task_kind: TaskKind) -> Schema:
        """See :func:`infer_schema`."""
        reader = TargetReader(self.table, self.config, self.origin)
        target = reader.read(task_kind)
        pairs = zip(self._names, self.table.columns, strict=True)
        columns = [target if name == target.name else self._read(name, cells) for name, cells in pairs]
        finder = RoleFinder(config=self.config, origin=self.origin, nameless=self.nameless, known=target.present)
        roles, notes = finder.find(columns)
        notes += reader.notes(target)
        features = [values for values, role in zip(columns, roles, strict=True) if role == "feature"]
        for values in features:
            notes += self._of_feature(values, target)
        used = target.present & ~np.any([values.bad for values in features], axis=0)
        for values, role in zip(columns, roles, strict=True):
            if role in ("group", "time"):
                used &= values.present if role == "time" else ~values.bad
        if not used.any():
            raise DataError(f"{self.origin}: no row has a target and readable cells in every feature, group and time")
        for values in features:
            if not (values.present & used).any():
                text = f"has values only in rows that are left out; add {option('ignore', values.name)}"
                raise self._error(values.name, text)
        spec = TableSpec(
            columns=tuple(self._column(values, role, used) for values, role in zip(columns, roles, strict=True)),
            max_rows=self.config.max_rows,
            max_bytes=self.config.max_bytes,
            text=self.config.text,
        )
        order = {name: position for position, name in enumerate(("", *self._names))}
        return Schema(
            spec,
            tuple(sorted(notes, key=lambda note: order[note.column])),
            len(self.table),
            tuple(int(values.missing.sum()) for values in columns),
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return self.table.names or ()

    def _read(self, name: str, cells: Sequence[Any]) -> ColumnValues:
        """One column that is not the target.

        Raises:
            DataError: it is of another kind than the settings need.
        """
        stated = self.config.kinds.get(name, "category" if name == self.config.group else None)
        values = read_column(name, cells, self.table.notation, stated)
        if stated and values.bad.any() and not values.present.any():
            text = f"none of its values is a {stated}, the first is {self._first_bad(values)}"
            raise self._error(name, f"{text}; correct {option('kinds')}")
        if name == self.config.time and values.kind not in ("number", "date"):
            why = f" ({values.note.text})" if values.note else ""
            text = f"has neither numbers nor dates such as 2024-02-29, so it cannot order the rows{why}"
            raise self._error(name, f"{text}; correct it, or leave out {option('time')}")
        return values

    def _of_feature(self, values: ColumnValues, target: ColumnValues) -> list[Note]:
        """What people should know of a feature, other than its role."""
        notes = [values.note] if values.note else []
        if values.bad.any():
            total = int((~values.missing).sum())
            text = (
                f"{values.bad.sum():,} of {total:,} values are no {values.kind}, the first is "
                f"{self._first_bad(values)}; their rows are left out"
            )
            notes.append(Note("warning", values.name, text))
        if names_groups(values, target.present):
            text = f"may be an identifier; if its rows belong together, use {option('group', values.name)}"
            notes.append(Note("info", values.name, text))
        if is_mostly_unique(values, target.present):
            text = f"{len(values.texts):,} categories in {target.present.sum():,} rows: too few rows to learn from each"
            notes.append(Note("warning", values.name, text))
        if why := why_leakage(values, target, target.present):
            text = f"{why}; if it is not known when a prediction is made, use {option('ignore', values.name)}"
            notes.append(Note("warning", values.name, text))
        return notes

    def _column(self, values: ColumnValues, role: Role, rows: np.ndarray) -> Column:
        column = column_of(values, role, rows)
        may_be_missing = column.may_be_missing or column.name in self.config.may_be_missing
        return replace(column, may_be_missing=may_be_missing, unit=self.config.units.get(column.name, ""))

    def _first_bad(self, values: ColumnValues) -> str:
        row = int(np.argmax(values.bad))
        cell = self.table.columns[self._names.index(values.name)][row]
        return f"{quote(cell)} in line {self.table.lines[row]}"

    def _error(self, name: str, text: str) -> DataError:
        return DataError(f"{self.origin}: column {name!r}: {text}")
