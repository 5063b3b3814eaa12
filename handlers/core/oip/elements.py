"""The member ``data`` of a tensor in a JSON document -> an array of its datatype."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..quoting import quote
from .datatypes import BF16, BOOL, BYTES, DTYPES, WireError, objects

_FLOATS: frozenset[type] = frozenset({int, float, type(None)})


class Base64(str):
    """Text that is the base64 of an element, because the client says so."""

    __slots__ = ()


def read_data(data: Any, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """Elements as JSON, flat or nested as the shape says -> a flat array in row-major order.

    Args:
        data: of the document.
        datatype: of the protocol.
        shape: of the tensor.

    Returns:
        An array of numpy's dtype for the datatype; for ``BYTES`` one of objects: text, or :class:`Base64` where a
        client sent ``{"b64": "..."}``.

    Raises:
        WireError: they are not as many as the shape says, or not of this datatype.
    """
    values = _flatten(data, shape)
    count = math.prod(shape)
    if len(values) != count:
        raise WireError(f"shape {list(shape)} has {count} elements, data has {len(values)}")
    if datatype == BYTES:
        return objects([_text(value) for value in values])
    if datatype == BF16:
        raise WireError("BF16 is read from binary data only; send FP32")
    kinds = set(map(type, values))
    if datatype == BOOL:
        return _booleans(values, kinds)
    return _numbers(values, kinds, datatype)


def _flatten(data: Any, shape: Sequence[int]) -> list[Any]:
    """A list without lists in it; lists of another shape than the tensor's are refused."""
    if not isinstance(data, list):
        return [data]  # of a tensor with one element
    level, depth = data, 0
    while level and isinstance(level[0], list):
        lengths = set(map(len, level)) if set(map(type, level)) == {list} else set()
        if depth + 1 >= len(shape) or len(level) != math.prod(shape[: depth + 1]) or lengths != {shape[depth + 1]}:
            raise WireError(f"data: expected a flat list, or lists of the shape {list(shape)}")
        level, depth = list(itertools.chain.from_iterable(level)), depth + 1
    return level


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        return Base64(value["b64"])
    raise WireError(f"data: expected texts for BYTES, got {quote(value)}")


def _booleans(values: list[Any], kinds: set[type]) -> np.ndarray:
    if kinds != {bool}:
        raise WireError(f"data: expected true and false for BOOL, got {_first(values, frozenset({bool}))}")
    return np.array(values, np.bool_)


def _numbers(values: list[Any], kinds: set[type], datatype: str) -> np.ndarray:
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        if not kinds <= _FLOATS:
            raise WireError(f"data: expected numbers for {datatype}, got {_first(values, _FLOATS)}")
        return _floats(values, datatype)
    if kinds != {int}:
        raise WireError(f"data: expected integers for {datatype}, got {_first(values, frozenset({int}))}")
    limits = np.iinfo(dtype)
    if (low := min(values)) < limits.min or (high := max(values)) > limits.max:
        outside = low if low < limits.min else high
        raise WireError(f"data: {datatype} has {limits.min} to {limits.max}, got {quote(outside)}")
    return np.array(values, dtype)


def _floats(values: list[Any], datatype: str) -> np.ndarray:
    """None, which is how JSON writes NaN, becomes NaN."""
    try:
        wide = np.array(values, np.float64)
    except OverflowError:
        raise WireError(f"data: an integer is beyond the range of {datatype}") from None
    with np.errstate(over="ignore"):
        narrow: np.ndarray = wide.astype(DTYPES[datatype])
    if (np.isinf(narrow) & np.isfinite(wide)).any():
        raise WireError(f"data: a number is beyond the range of {datatype}")
    return narrow


def _first(values: list[Any], kinds: frozenset[type]) -> str:
    """The first value of another type, for a message."""
    return quote(next(value for value in values if type(value) not in kinds))
