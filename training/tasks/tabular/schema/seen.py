"""What rows hold: the range of a column's numbers, its categories, and whether values are missing."""

from dataclasses import replace

import numpy as np

from marquee.handlers.inputs.table.spec import Column, Role
from marquee.training.tasks.tabular.schema.kinds import ColumnValues
from marquee.training.tasks.tabular.schema.natural import in_natural_order

_WITH_RANGE = ("feature", "target", "time")
_WITH_CATEGORIES = ("feature", "target")


def column_of(values: ColumnValues, role: Role, rows: np.ndarray) -> Column:
    """A column as some rows show it.

    The range is kept of features, targets and times, and the categories of features and targets: other columns may hold
    names of people, which have no place in a model.

    Args:
        values: of the column.
        role: of the column.
        rows: bool (N,), the rows that count.
    """
    known = values.values[values.present & rows]
    column = Column(
        name=values.name,
        kind=values.kind,
        role="ignore",
        may_be_missing=role != "target" and bool((values.missing & rows).any()),
    )
    if values.kind in ("number", "date") and role in _WITH_RANGE and len(known):
        column = replace(column, low=float(known.min()), high=float(known.max()))
    if values.kind == "category" and role in _WITH_CATEGORIES:
        column = replace(column, categories=tuple(in_natural_order(values.texts[i] for i in np.unique(known))))
    return replace(column, role=role)
