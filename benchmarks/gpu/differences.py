"""How far the weights or the losses of two runs are apart; a value that is not finite is never lost."""

import math
from collections.abc import Mapping, Sequence

import torch

Weights = Mapping[str, torch.Tensor]
"""By name."""


def largest_difference(first: Weights, second: Weights) -> float:
    """The largest difference between two sets of weights; NaN or infinite where one of their values is.

    Raises:
        ValueError: their names or shapes differ.
    """
    if unlike := _unlike(first, second):
        raise ValueError(f"the runs' weights cannot be compared: {', '.join(unlike[:3])}")
    return _largest([float((first[name].double() - second[name].double()).abs().amax()) for name in first])


def are_equal(first: Weights, second: Weights) -> bool:
    """Whether two sets of weights have the same names, shapes and values; NaN equals nothing."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def largest_gap(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference between two lists of losses; NaN or infinite where one of them is.

    Raises:
        ValueError: one is longer than the other.
    """
    return _largest([abs(one - other) for one, other in zip(first, second, strict=True)])


def _unlike(first: Weights, second: Weights) -> list[str]:
    """The names that only one has, or whose shapes differ."""
    common = first.keys() & second.keys()
    return sorted((first.keys() ^ second.keys()) | {name for name in common if first[name].shape != second[name].shape})


def _largest(values: Sequence[float]) -> float:
    # Python's max passes over NaN, unless it comes first.
    return math.nan if any(map(math.isnan, values)) else max(values)
