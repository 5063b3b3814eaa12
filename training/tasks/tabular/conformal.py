"""Intervals by split conformal prediction (Lei et al., 2018, algorithm 2)."""

import math

import numpy as np


def half_width(errors: np.ndarray, level: float) -> float | None:
    """Half of the width of intervals around answers that contain the truth with a probability of at least ``level``.

    It is the k-th smallest error, k = ceil((N + 1) level): for exchangeable items the guarantee holds for every N,
    and the probability exceeds ``level`` by at most 1 / (N + 1).

    Args:
        errors: float (N,), absolute errors on items that took no part in training.
        level: between 0 and 1.

    Returns:
        None where N is too small for the level: no finite interval has the guarantee.
    """
    # Rounding must not lift (N + 1) level above the integer that it is, as in 0.9 x 10.
    rank = math.ceil((len(errors) + 1) * level - 1e-9)
    if rank > len(errors):
        return None
    return float(np.sort(errors)[rank - 1])
