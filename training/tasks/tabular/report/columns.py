"""What a page and a card say of the columns."""

from dataclasses import dataclass

import numpy as np

from marquee.handlers.inputs.table.spec import CODES, MISSING, NUMBERS
from marquee.training.tasks.tabular.report.facts import TableFacts
from marquee.training.tasks.tabular.report.rows import seen_text


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One column of the table."""

    name: str
    role: str
    kind: str
    unit: str
    seen: str
    """What training saw in it."""
    missing: float | None
    """Share of the training rows without a value; None for a column that is no feature."""
    may_be_missing: bool
    outside: int | None
    """Measured rows that are unfamiliar in it; None for a column that is no feature."""


def columns_of(facts: TableFacts) -> list[ColumnFacts]:
    """In the order of the table."""
    table, train = facts.table, facts.training_inputs
    missing = {column.name: np.isnan(train[NUMBERS][:, i]).mean() for i, column in enumerate(table.numeric)}
    missing |= {column.name: (train[CODES][:, i] == MISSING).mean() for i, column in enumerate(table.categorical)}
    outside = dict(zip((column.name for column in table.features), facts.outside.sum(axis=0).tolist(), strict=True))
    return [
        ColumnFacts(
            name=column.name,
            role=column.role,
            kind=column.kind,
            unit=column.unit,
            seen=seen_text(column),
            missing=float(missing[column.name]) if column.role == "feature" else None,
            may_be_missing=column.may_be_missing,
            outside=outside.get(column.name),
        )
        for column in table.columns
    ]
