"""The protocol's datatypes, and tensors as raw bytes: little-endian, in row-major order.

An element of a ``BYTES`` tensor is four bytes that say its length, and then its content.
"""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

BYTES, BOOL, BF16 = "BYTES", "BOOL", "BF16"
DTYPES: dict[str, np.dtype[Any]] = {
    BOOL: np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Datatype of the protocol -> numpy's, for those that numpy has."""
DATATYPES = (*DTYPES, BF16, BYTES)
"""All of them. ``BF16`` is the upper half of an FP32, and read as such."""

_LENGTH = struct.Struct("<I")


class WireError(ValueError):
    """Bytes or a document that are not what the protocol says; the message is for whoever sent them."""


def item_size(datatype: str) -> int | None:
    """Bytes of one element; None for ``BYTES``, whose elements have different sizes.

    Raises:
        WireError: there is no such datatype.
    """
    if datatype == BYTES:
        return None
    if datatype == BF16:
        return 2
    if datatype not in DTYPES:
        raise WireError(f"expected one of {', '.join(DATATYPES)}")
    return DTYPES[datatype].itemsize


def pack(values: Any, datatype: str) -> bytes:
    """Elements -> raw bytes.

    Args:
        values: an array, or a sequence, in row-major order; of ``BYTES`` a flat one of bytes or text.
        datatype: of the protocol.

    Raises:
        WireError: there is no such datatype, or a value does not fit it.
    """
    if datatype == BYTES:
        return pack_bytes(values.ravel() if isinstance(values, np.ndarray) else values)
    item_size(datatype)
    try:
        if datatype == BF16:
            halves = np.ascontiguousarray(values, "<f4").view("<u4") >> 16
            return halves.astype("<u2").tobytes()
        return np.asarray(values, DTYPES[datatype]).tobytes()
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"a value does not fit {datatype}: {error}") from error


def pack_bytes(elements: Iterable[bytes | str]) -> bytes:
    """Elements of a ``BYTES`` tensor -> raw bytes; text as UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        content = element.encode() if isinstance(element, str) else element
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)


def unpack(raw: bytes | memoryview, datatype: str, count: int) -> np.ndarray:
    """Raw bytes -> a flat array of ``count`` elements; of ``BYTES`` an array of objects, which are bytes.

    Raises:
        WireError: there is no such datatype, or these are not the bytes of so many elements.
    """
    size = item_size(datatype)
    if size is None:
        return objects(unpack_bytes(raw, count))
    if len(raw) != size * count:
        raise WireError(f"{count} elements of {datatype} have {size * count} bytes, got {len(raw)}")
    if datatype == BOOL:
        return np.frombuffer(raw, np.uint8).astype(np.bool_)
    if datatype == BF16:
        halves = np.frombuffer(raw, "<u2").astype(np.uint32)
        floats: np.ndarray = (halves << np.uint32(16)).view(np.float32)
        return floats
    return np.frombuffer(raw, DTYPES[datatype])


def count_elements(raw: bytes | memoryview, datatype: str) -> int:
    """How many elements raw bytes hold, where nothing else says it.

    Raises:
        WireError: there is no such datatype, or the bytes end within an element.
    """
    size = item_size(datatype)
    if size is not None:
        count, rest = divmod(len(raw), size)
        if rest:
            raise WireError(f"elements of {datatype} have {size} bytes each, got {len(raw)} bytes")
        return count
    view, count, place = memoryview(raw), 0, 0
    while place < len(view):
        if place + _LENGTH.size > len(view):
            raise WireError(f"the bytes end within element {count + 1}")
        place += _LENGTH.size + _LENGTH.unpack_from(view, place)[0]
        count += 1
    return count


def unpack_bytes(raw: bytes | memoryview, count: int) -> list[bytes]:
    """Raw bytes of a ``BYTES`` tensor -> its elements.

    Raises:
        WireError: these are not ``count`` elements.
    """
    view, elements, place = memoryview(raw), [], 0
    if _LENGTH.size * count > len(view):
        raise WireError(f"{count} elements of BYTES have at least {_LENGTH.size * count} bytes, got {len(view)}")
    for number in range(count):
        start = place + _LENGTH.size
        if start > len(view):
            raise WireError(f"the bytes end before element {number + 1} of {count}")
        place = start + _LENGTH.unpack_from(view, place)[0]
        if place > len(view):
            raise WireError(
                f"element {number + 1} of {count} should have {place - start} bytes, {len(view) - start} are left; "
                "is its length there, as four bytes in little-endian order?"
            )
        elements.append(bytes(view[start:place]))
    if place != len(view):
        raise WireError(f"{len(view) - place} bytes are left after {count} elements")
    return elements


def objects(elements: list[Any]) -> np.ndarray:
    """A flat array of objects, whatever they are."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
