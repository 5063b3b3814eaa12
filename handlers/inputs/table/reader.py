"""The rows of requests -> one batch of float64 numbers and int64 category codes.

A request is decoded as a whole when it is opened, column by column; its items only say which of its rows they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import Any, NamedTuple

import numpy as np

from ...core.arrays import Arrays, concatenate, rows, take
from ...core.batch import Batch
from ...core.errors import InputError
from ...core.oip.tensor import Tensor
from .body import read_body
from .decode import Decoder
from .errors import STATUS_BY_CODE, TableError
from .rows import Rows, from_rows
from .spec import CODES, FIRST_CATEGORY, NUMBERS, TableSpec
from .tensors import rows_of


@dataclass(frozen=True)
class Block:
    """The decoded rows of one request, good and bad."""

    arrays: Arrays
    """As :class:`~.decode.Decoded` has them."""


class Row(NamedTuple):
    """An item: one row of a request."""

    block: Block
    position: int
    """Of its row in the arrays."""


class TableReader:
    """See :class:`marquee.handlers.core.input.Input`. Its items are rows that are decoded already.

    Args:
        spec: the columns.
    """

    codes: Mapping[str, int] = STATUS_BY_CODE

    def __init__(self, spec: TableSpec) -> None:
        self.max_items = spec.max_rows
        self._spec = spec
        self._decoder = Decoder(spec)
        self._nothing = {name: values[:0] for name, values in spec.example(1).items()}
        self._codes = np.array([FIRST_CATEGORY + len(column.categories) for column in spec.categorical], np.int64)

    def opener(self) -> "TableOpener":
        """For one request."""
        return TableOpener(self._spec, self._decoder)

    def collate(self, items: Sequence[Row | InputError]) -> Batch:
        """The rows of all items in one array of each kind.

        Args:
            items: from :class:`TableOpener`; an error stays where it is.

        Returns:
            ``numbers`` float64 (good rows, numeric features) and ``codes`` int64 (good rows, categorical features),
            those of them that have columns. The arrays of one request without errors are not copied.
        """
        good = [item for item in items if isinstance(item, Row)]
        errors: tuple[InputError | None, ...] = (None,) * len(items)
        if len(good) < len(items):
            errors = tuple(None if isinstance(item, Row) else item for item in items)
        parts = [_part(list(group)) for _, group in groupby(good, lambda item: id(item.block))]
        arrays = concatenate(parts) if len(parts) > 1 else parts[0] if parts else self._nothing
        return Batch(arrays, errors)

    def check(self, arrays: Arrays) -> None:
        """Raises ValueError for anything but what :meth:`collate` gives."""
        if arrays.keys() != self._nothing.keys():
            raise ValueError(f"expected arrays named {list(self._nothing)}, got {list(arrays)}")
        for name, empty in self._nothing.items():
            values = arrays[name]
            if values.dtype != empty.dtype or values.shape[1:] != empty.shape[1:]:
                wanted = f"{empty.dtype} (N, {empty.shape[1]})"
                raise ValueError(f"expected {name}: {wanted}, got {values.dtype} {values.shape}")
            if len(values) != rows(arrays):
                raise ValueError(f"expected as many {CODES} as {NUMBERS}, got {len(values)} and {rows(arrays)}")
        codes = arrays.get(CODES)
        if codes is not None and ((codes < 0) | (codes >= self._codes)).any():
            raise ValueError(f"{CODES}: a code is not one of the schema's")


class TableOpener:
    """Opens the rows of one request.

    Args:
        spec: how much a request may hold.
        decoder: of the schema.
    """

    def __init__(self, spec: TableSpec, decoder: Decoder) -> None:
        self._spec = spec
        self._decoder = decoder

    def file(self, data: bytes | bytearray) -> Row:
        """A body, in any of its forms, that holds exactly one row.

        Raises:
            InputError: it holds none or several, or the row is bad.
        """
        items, _ = self.items(data)
        if len(items) != 1:
            raise TableError("bad_table", f"expected one row, got {len(items)}")
        return _good(items[0])

    def instance(self, value: Any) -> Row:
        """``[cells of the features in the order of the schema]`` or ``{name: cell}``.

        Raises:
            InputError: the row is bad.
        """
        return _good(self._items(from_rows([value], self._decoder.names))[0])

    def items(self, body: Any) -> tuple[list[Any], bool]:
        """All rows of a body (see :mod:`~.body`).

        Args:
            body: bytes, or JSON that is parsed already.

        Returns:
            For each row of the body, in its order, a :class:`Row` or an InputError; and whether they are a list.

        Raises:
            InputError: the body as a whole cannot be used.
        """
        try:
            found, is_list = read_body(body, self._spec, self._decoder.names)
            return self._items(found), is_list
        except MemoryError:
            # TorchServe answers a MemoryError with 507 for the whole batch.
            raise TableError("too_large", "the server has not enough memory to read this body") from None

    def tensors(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The rows of a request of the Open Inference Protocol (see :mod:`.tensors`)."""
        return self._items(rows_of(tensors, self._spec, self._decoder.names))

    def _items(self, found: Rows) -> list[Any]:
        decoded = self._decoder.decode(found.table, found.errors)
        items: list[Any] = list(map(Row, repeat(Block(decoded.arrays)), range(len(found.table))))
        for index, error in enumerate(decoded.errors):
            if error is not None:
                items[index] = error
        if not found.table.rejected:
            return items
        rejected = [
            (bad.line, TableError("bad_request", f"line {bad.line}: {bad.reason}")) for bad in found.table.rejected
        ]
        lines = [*zip(found.table.lines, items, strict=True), *rejected]
        return [item for _, item in sorted(lines, key=lambda pair: pair[0])]


def _good(item: Any) -> Row:
    if isinstance(item, Row):
        return item
    raise item


def _part(items: Sequence[Row]) -> Arrays:
    """The rows of items that follow one another and are of one block."""
    arrays = items[0].block.arrays
    positions = [item.position for item in items]
    start, stop = positions[0], positions[0] + len(positions)
    if positions != list(range(start, stop)):
        return take(arrays, positions)
    return arrays if len(positions) == rows(arrays) else take(arrays, slice(start, stop))
