"""Float64 arrays for engines that compute in float32, such as OpenVINO on a CPU: no digit is lost on the way.

A float64 number has 53 binary digits and a float32 number has 24, so three of them hold it: the nearest float32, the
nearest to what that leaves, and the rest. A program can subtract a constant part by part before it adds the parts up,
which is exact where a plain float32 has lost the difference (20000.123 - 20000, or 1000000003 - 1000000000), and can
compare part by part, the largest first, which is exact too.
"""

import numpy as np

from ..arrays import Arrays

PARTS = 3
LARGEST = 3e38
"""Numbers beyond it, which have no float32, are taken for this one."""


def in_parts(arrays: Arrays) -> Arrays:
    """The arrays as such an engine gets them: float64 (N, ...) as float32 (N, 3, ...), others as they are."""
    return {name: parts(values) if values.dtype == np.float64 else values for name, values in arrays.items()}


def parts(values: np.ndarray) -> np.ndarray:
    """Float64 (N, ...) -> float32 (N, 3, ...), whose sum over the second axis is ``values``; NaN has three NaN.

    The sum is exact for 0 and for sizes from 1e-22 to 3e38. Equal numbers have equal parts, and of two numbers the
    larger has the larger part at the first place where theirs differ.
    """
    left = np.clip(values, -LARGEST, LARGEST)
    result = np.empty((len(values), PARTS, *values.shape[1:]), np.float32)
    for place in range(PARTS):
        result[:, place] = left
        if place < PARTS - 1:
            left = left - result[:, place]
    return result
