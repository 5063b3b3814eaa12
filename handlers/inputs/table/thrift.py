"""Thrift's compact protocol, in which a Parquet file says where its pages are and how large each is.

Read strictly: numbers and lengths that another reader would cut off to the bits of their types are refused, as are
fields that are there twice, so that no file says one thing here and another there.
"""

from collections.abc import Iterator
from typing import Any

I32, I64 = 5, 6
"""Types of numbers, in the shape of a struct."""
_TRUE, _FALSE, _BYTE, _I16, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 4, 7, 8, 9, 10, 11, 12
_BITS = {_I16: 15, I32: 31, I64: 63}
_DEEPEST = 16
"""Values within values; a Parquet file has some eight."""
_MOST_ITEMS = 100_000
"""Structs of a list that are kept."""

Shape = dict[int, Any]
"""Number of a field that is of interest -> :data:`I32`, :data:`I64`, the shape of a struct, or a list with the shape of
the structs in a list."""
Struct = dict[int, Any]
"""Number of a field -> its value: int, struct, or list of structs."""


class Compact:
    """Reads one struct after the other.

    Args:
        data: bytes.
        at: where the first begins.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at
        """Where the next value begins."""

    def struct(self, shape: Shape) -> Struct:
        """A struct.

        Args:
            shape: the fields that are of interest; the others are passed over.

        Raises:
            ValueError: the bytes are none, or are at their end.
        """
        if self.at < 0:
            raise ValueError("a value in front of the first byte")
        try:
            return self._struct(shape)
        except IndexError:
            raise ValueError("a value behind the last byte") from None

    def _struct(self, shape: Shape) -> Struct:
        found: Struct = {}
        for field, kind in self._fields():
            if field not in shape:
                self._skip(kind)
            elif field in found:
                raise ValueError("a field is there twice")
            else:
                found[field] = self._value(kind, shape[field])
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; its value is read before the next is asked for."""
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number(_I16)
            if not 0 < field < 1 << 15:
                raise ValueError("a field has a number out of range")
            yield field, head & 15

    def _value(self, kind: int, wanted: Any) -> Any:
        if kind == wanted:
            return self._number(kind)
        if kind == _STRUCT and isinstance(wanted, dict):
            return self._struct(wanted)
        if kind == _LIST and isinstance(wanted, list):
            count, inner = self._items()
            if count > _MOST_ITEMS or (count and inner != _STRUCT):
                raise ValueError("a list has too many items, or of another type than expected")
            return [self._struct(wanted[0]) for _ in range(count)]
        raise ValueError("a field is of another type than expected")

    def _skip(self, kind: int, depth: int = 0, is_item: bool = False) -> None:
        """Passes over a value; a truth value that is no item is in the type of its field."""
        if depth > _DEEPEST:
            raise ValueError("values are too deep within values")
        if kind in _BITS:
            self._number(kind)
        elif kind == _BINARY:
            length = self._length()  # which moves on
            self.at += length
        elif kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            self.at += 8 if kind == _DOUBLE else int(kind == _BYTE or is_item)
        elif kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            count, inner = self._items()
            for _ in range(count):
                self._skip(inner, depth + 1, is_item=True)
        elif kind == _MAP:
            self._skip_map(depth)
        else:
            raise ValueError("a value is of an unknown type")

    def _skip_map(self, depth: int) -> None:
        if count := self._length():
            kinds = self._byte()
            for _ in range(count):
                self._skip(kinds >> 4, depth + 1, is_item=True)
                self._skip(kinds & 15, depth + 1, is_item=True)

    def _items(self) -> tuple[int, int]:
        """How many items of a list follow, and of which type they are."""
        head = self._byte()
        count = head >> 4
        return (self._length() if count == 15 else count), head & 15

    def _number(self, kind: int) -> int:
        value = self._unsigned()
        value = value >> 1 ^ -(value & 1)
        if not -(1 << _BITS[kind]) <= value < 1 << _BITS[kind]:
            raise ValueError("a number is out of range")
        return value

    def _length(self) -> int:
        length = self._unsigned()
        if length > len(self._data):
            raise ValueError("a length is beyond the end")
        return length

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _unsigned(self) -> int:
        """Seven bits a byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number is out of range")
