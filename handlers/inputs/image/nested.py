"""Images that are sent as JSON numbers."""

import itertools
from typing import Any

import numpy as np
from PIL import Image

from ...core.quoting import quote
from .channels import to_channels
from .errors import ImageError
from .json_forms import IMAGE_DATA
from .limits import check_pixels
from .spec import ImageSpec

RANGES = (1, 255)
"""What white may be, where the client says it."""


def from_nested_list(values: Any, spec: ImageSpec, value_range: Any = None) -> Image.Image:
    """An image sent as JSON numbers: nested lists HxW or HxWx3 (or HxWx1), integers 0..255 or floats 0..1.

    One float makes all values floats. Integers of which none is above 1 are refused where nobody says what white is:
    ``[[0, 1]]`` is nearly black, or how JavaScript writes ``[[0.0, 1.0]]``, which is black and white.

    Args:
        values: the lists.
        spec: limits and channels.
        value_range: what white is, 1 or 255, whether the values are integers or floats; None: nobody says it.

    Returns:
        A Pillow image of mode ``L`` or ``RGB``, as :func:`decode` gives.

    Raises:
        InputError: ``bad_image_data`` (ragged, not numbers, out of range, wrong shape), ``too_many_pixels``.
    """
    _check_numbers(values)
    try:
        array = np.array(values)
    except (ValueError, OverflowError) as error:
        raise ImageError("bad_image_data", "image_data: the rows have different lengths") from error
    return from_array(array, spec, value_range)


def from_array(array: np.ndarray, spec: ImageSpec, value_range: Any = None, name: str = IMAGE_DATA) -> Image.Image:
    """An image sent as numbers; see :func:`from_nested_list`, whose lists it has read.

    Args:
        array: HxW, HxWx1 or HxWx3.
        spec: limits and channels.
        value_range: what white is, 1 or 255; None: nobody says it.
        name: of the numbers, for messages.

    Returns:
        A Pillow image of mode ``L`` or ``RGB``.

    Raises:
        InputError: ``bad_image_data`` (not numbers, out of range, wrong shape), ``too_many_pixels``.
    """
    if array.dtype.kind not in "iuf":
        raise ImageError("bad_image_data", f"{name}: integers must lie in 0..255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        shape = "x".join(map(str, array.shape))
        raise ImageError("bad_image_data", f"{name}: expected HxW or HxWx3 numbers, got shape {shape}")
    check_pixels(array.shape[1], array.shape[0], spec)
    return to_channels(Image.fromarray(_to_bytes(array, value_range, name)), spec)


def _to_bytes(array: np.ndarray, value_range: Any, name: str) -> np.ndarray:
    """The values as uint8, by what the client says of them, or else by what they are."""
    if value_range is not None:
        # Not `in RANGES` alone: to Python, true is 1.
        if isinstance(value_range, bool) or value_range not in RANGES:
            raise ImageError("bad_image_data", f"range: expected 1 or 255, got {quote(value_range)}")
        white = int(value_range)
        return _scaled(array, white, f'{name}: numbers must lie in 0..{white}, as "range": {white} says')
    if array.dtype.kind == "f":
        other = "" if name == IMAGE_DATA else ', or "range": 255 among the parameters'
        return _scaled(array, 1, f"{name}: floats must lie in 0..1; send integers for values in 0..255{other}")
    if array.max() == 1 and array.min() >= 0:
        place = f"beside {name}" if name == IMAGE_DATA else "among the parameters"
        raise ImageError(
            "bad_image_data",
            f"{name}: all values are the integers 0 and 1, and 1 may be nearly black or white (JavaScript writes "
            f'1.0 as 1); say what white is: "range": 1 or "range": 255 {place}',
        )
    return _scaled(array, 255, f"{name}: integers must lie in 0..255")


def _scaled(array: np.ndarray, white: int, message: str) -> np.ndarray:
    """Values from 0 to ``white`` as uint8; raises ImageError with ``message`` where they lie elsewhere."""
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= white):
        raise ImageError("bad_image_data", message)
    return (np.rint(array * (255 / white)) if white != 255 or array.dtype.kind == "f" else array).astype(np.uint8)


def _check_numbers(values: Any) -> None:
    """Refuses anything but lists of numbers before numpy sees it: one long string would set the size of all items."""
    level = [values]
    for _ in range(4):  # the list itself, rows, columns, channels
        kinds = set(map(type, level))
        if kinds <= {int, float}:
            return
        if kinds != {list}:
            break
        level = list(itertools.chain.from_iterable(level))
    raise ImageError("bad_image_data", "image_data: expected a nested list of numbers, HxW or HxWx3")
