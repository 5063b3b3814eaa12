"""Named arrays with a row for each item: what goes into an engine and what comes out of it."""

from collections.abc import Mapping, Sequence

import numpy as np

Arrays = dict[str, np.ndarray]
"""Name -> array whose first axis is the item's."""


def rows(arrays: Mapping[str, np.ndarray]) -> int:
    """The number of items; 0 without arrays."""
    return len(next(iter(arrays.values()))) if arrays else 0


def take(arrays: Mapping[str, np.ndarray], chosen: "slice | np.ndarray | list[int]") -> Arrays:
    """The chosen items of each array; a slice copies nothing."""
    return {name: values[chosen] for name, values in arrays.items()}


def concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """The items of several parts, one after the other.

    Args:
        parts: at least one; all have the same names.

    Raises:
        KeyError: a part lacks a name of the first.
    """
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
