"""Rows at the edges of what training saw, which a data set may lack."""

import numpy as np

from marquee.handlers.core.arrays import Arrays, concatenate
from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, MISSING, NUMBERS, UNSEEN, Column, TableSpec


def edge_rows(spec: TableSpec) -> Arrays:
    """A row for each edge of each feature; its other features have values from the middle of what training saw.

    The edges of a number are the smallest and the largest one that training saw, the next number beyond either, and a
    missing one; of a category, each that training saw, one that it did not, and a missing one.
    """
    rows = [spec.example(1)]
    for number, column in enumerate(spec.numeric):
        rows += [_row(spec, NUMBERS, number, value) for value in _numbers(column)]
    for number, column in enumerate(spec.categorical):
        rows += [_row(spec, CODES, number, code) for code in _codes(column)]
    return concatenate(rows)


def _row(spec: TableSpec, name: str, column: int, value: float) -> Arrays:
    row = spec.example(1)
    row[name][0, column] = value
    return row


def _numbers(column: Column) -> list[float]:
    values = [np.nan] if column.may_be_missing else []
    if column.low is not None and column.high is not None:
        beyond = [float(np.nextafter(column.low, -np.inf)), float(np.nextafter(column.high, np.inf))]
        values += [column.low, column.high, *beyond]
    return values


def _codes(column: Column) -> list[int]:
    seen = range(FIRST_CATEGORY, FIRST_CATEGORY + len(column.categories))
    return [*([MISSING] if column.may_be_missing else []), UNSEEN, *seen]
