"""Columns in which an item lies outside of what training saw, as the engine says it."""

from collections.abc import Sequence

import numpy as np

from ..core.errors import BundleError

OUTSIDE = "outside"
"""Array of an engine: (N, features), not 0 where a feature lies outside of what training saw."""


def read_outside(values: np.ndarray, columns: Sequence[str]) -> np.ndarray:
    """Checks what an engine gave; returns bool (N, columns).

    Raises:
        BundleError: it is not a table with a column for each of ``columns``.
    """
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise BundleError(f"the engine gave {OUTSIDE} of shape {values.shape} for {len(columns)} columns")
    result: np.ndarray = values > 0
    return result


def names_outside(outside: np.ndarray, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Bool (N, columns) -> for each row the names of the columns that are set."""
    names: list[tuple[str, ...]] = [()] * len(outside)
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        names[row] = tuple(columns[number] for number in np.flatnonzero(outside[row]).tolist())
    return names
