"""What a row's cells were, for people: an engine's arrays -> numbers, truth values, categories and dates."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..inputs.table.spec import CODES, FIRST_CATEGORY, NUMBERS, UNSEEN, Column, TableSpec
from ..inputs.table.values import date_text


def cells_of(spec: TableSpec, arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The cells of one row, in the order of the features, as JSON.

    Args:
        spec: of the table.
        arrays: ``numbers``, float64 (1, numeric features), and ``codes``, int64 (1, categorical features).

    Returns:
        For each ``column`` and ``value``: a number, a truth value, a category's name, a date in ISO 8601, or None for
        a missing value and for a category that training did not see, which has ``unseen`` besides: its name is not
        known here any more.
    """
    numbers, codes = (iter(arrays[name][0].tolist()) if name in arrays else iter(()) for name in (NUMBERS, CODES))
    return [
        {"column": column.name, **_category(column, next(codes))}
        if column.kind == "category"
        else {"column": column.name, "value": _number(column, next(numbers))}
        for column in spec.features
    ]


def _category(column: Column, code: int) -> dict[str, Any]:
    if code >= FIRST_CATEGORY:
        return {"value": column.categories[code - FIRST_CATEGORY]}
    return {"value": None, "unseen": True} if code == UNSEEN else {"value": None}


def _number(column: Column, number: float) -> Any:
    if not math.isfinite(number):
        return None
    if column.kind == "boolean":
        return bool(number)
    return date_text(number) if column.kind == "date" else number
