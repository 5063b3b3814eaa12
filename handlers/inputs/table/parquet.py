"""A Parquet file -> :class:`RawTable` of cells with types."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError
from .cells import RawTable
from .errors import TableError
from .pages import decompressed_size

MAX_BYTES = 1 << 31
"""Size of the columns, decompressed, above which a file is refused unless a caller says another."""
_BATCH = 16_384
"""Rows that are decompressed at a time."""
_CELL = 32
"""Bytes of a cell in memory, at the least that a number takes."""
_CAST = "write it as a number, a boolean, a text, a date or a time stamp"
_TEXTS = ("string", "large_string", "string_view")
_AS_THEY_ARE = ("bool", "null", "date32[day]", "date64[ms]")
"""Types, as pyarrow writes them, whose cells pyarrow gives as they are wanted."""
_BYTES = "BYTE_ARRAY"
"""How a file stores texts; a value has any length."""
_DIFFERENCES = "texts in one of the encodings DELTA_BYTE_ARRAY and DELTA_LENGTH_BYTE_ARRAY; write them as a dictionary"
"""pyarrow does not read these as a dictionary."""
_LONGEST_DECIMAL = 32
"""Bytes of the longest decimal of 256 bits."""

Conversion = Callable[[Any], list[Any]]
"""An array of pyarrow -> its cells."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INDEX = re.compile(r"__index_level_\d+__")
"""Where pandas stores an index without a name; it is no column of the table."""


def read_parquet(
    data: bytes | bytearray | Path,
    *,
    max_rows: int | None = None,
    max_bytes: int = MAX_BYTES,
    widest: int | None = None,
    check: Callable[[Sequence[str]], None] | None = None,
) -> RawTable:
    """Reads the columns of a Parquet file.

    Numbers become int and float (a decimal the nearest float), times datetime in UTC (without a time zone they are
    taken for UTC, and what is finer than a microsecond is cut off), text and dictionaries of text str. A null is None,
    and so is a NaN: it is how numpy spells a missing value.

    Args:
        data: the content of a file, or where it lies. A content comes from somebody else: what it says of its size is
            not believed, and neither its pages nor their values take more memory than ``max_bytes`` allows.
        max_rows: most rows that are accepted; None: any number.
        max_bytes: largest size of the decompressed columns that is accepted.
        widest: most columns that are accepted; None: any number.
        check: is called with the names of the columns before any is read; what it raises is passed on.

    Returns:
        A table without a notation; its lines are the numbers of the rows, from 1.

    Raises:
        InputError: ``not_supported``: pyarrow is not installed; ``too_many_instances``; ``too_large``; ``bad_table``:
            no Parquet file, a damaged one, or a column of a type that is no number, text, boolean or date.
        OSError: the file cannot be opened.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("not_supported", "Parquet needs pyarrow, which is not installed: marquee[parquet]") from error
    content = None if isinstance(data, Path) else bytes(data)
    source = pa.OSFile(str(data)) if content is None else pa.BufferReader(pa.py_buffer(content))
    with source:
        try:
            _check_magic(source)
            size = 0 if content is None else decompressed_size(content, max_bytes)
            metadata = pq.read_metadata(source)
            _check_size(metadata, size, max_rows, max_bytes, widest)
            schema = pq.ParquetFile(source, metadata=metadata).schema_arrow
            if check is not None:
                check(_kept(schema.names))
            conversions = [_conversion(field.name, field.type, pa.types) for field in schema]
            _check_stored(metadata, schema, pa.types)
            # A dictionary keeps each text once in memory, however many rows a small file says that it has.
            texts = [metadata.schema.column(place).path for place, field in enumerate(schema) if _is_text(field)]
            file = pq.ParquetFile(source, metadata=metadata, read_dictionary=texts, coerce_int96_timestamp_unit="us")
            for field in filter(_is_text, file.schema_arrow):
                raise TableError("bad_table", f"column {field.name!r} of the Parquet file is there twice, or damaged")
            return _read(file, conversions)
        except (InputError, MemoryError):
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            text = " ".join(str(error).split())[:200]
            if "DictAccumulator" in text:
                raise TableError("bad_table", f"the Parquet file has {_DIFFERENCES}") from error
            raise TableError("bad_table", f"the Parquet file is damaged, or cannot be read: {text}") from error


def _check_magic(source: Any) -> None:
    head = source.read(4)
    source.seek(0)
    if head == b"PARE":
        raise TableError("bad_table", "the Parquet file is encrypted; write it without encryption")
    if head != b"PAR1":
        raise TableError("bad_table", "this is no Parquet file: it does not begin with PAR1")


def _check_size(metadata: Any, size: int, max_rows: int | None, max_bytes: int, widest: int | None) -> None:
    """Refuses what is too large, before a column is read.

    Args:
        metadata: the footer.
        size: that was found out already.
        max_rows: see :func:`read_parquet`.
        max_bytes: see there.
        widest: see there.
    """
    rows, columns = metadata.num_rows, metadata.num_columns
    if max_rows is not None and rows > max_rows:
        raise InputError("too_many_instances", f"the Parquet file has {rows} rows; at most {max_rows} are accepted")
    if widest is not None and columns > widest:
        raise TableError("bad_table", f"the Parquet file has {columns} columns; at most {widest} are accepted")
    stored = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    size = max(size, stored, rows * columns * _CELL)
    if size > max_bytes:
        raise InputError(
            "too_large",
            f"the Parquet file has {rows} rows of {columns} columns, about {size} bytes in memory; "
            f"at most {max_bytes} are accepted",
        )


def _check_stored(metadata: Any, schema: Any, types: Any) -> None:
    """Refuses numbers that are stored with any length, as decimals may be: each row would have a copy of a long one."""
    for place, field in enumerate(schema):
        stored = metadata.schema.column(place)
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if (stored.physical_type == _BYTES and str(kind) not in _TEXTS) or (stored.length or 0) > _LONGEST_DECIMAL:
            raise _odd_type(field.name, field.type, "write it as a number")


def _conversion(name: str, kind: Any, types: Any) -> Conversion:
    """How the cells of a type become those of a table.

    Raises:
        InputError: ``bad_table``: they cannot.
    """
    if types.is_dictionary(kind):
        is_text = str(kind.value_type) in _TEXTS
        inner = _as_they_are if is_text else _conversion(name, kind.value_type, types)
        return lambda array: _dictionary(array, inner)
    if str(kind) in _TEXTS:
        return lambda array: _dictionary(array, _as_they_are)
    if types.is_integer(kind) or str(kind) in _AS_THEY_ARE:
        return _as_they_are
    if types.is_floating(kind):
        return _floats
    if types.is_decimal(kind):
        return _decimals
    if types.is_timestamp(kind):
        return _times
    raise _odd_type(name, kind, "write each of its parts as a column of its own" if types.is_nested(kind) else _CAST)


def _is_text(field: Any) -> bool:
    return str(field.type) in _TEXTS


def _odd_type(name: str, kind: Any, hint: str) -> TableError:
    return TableError("bad_table", f"column {name!r} of the Parquet file has the type {str(kind)[:80]}; {hint}")


def _kept(names: Sequence[str]) -> list[str]:
    """Names of the columns that are columns of the table, stripped."""
    return [name.strip() for name in names if not _INDEX.fullmatch(name)]


def _read(file: Any, conversions: Sequence[Conversion]) -> RawTable:
    names = tuple(file.schema_arrow.names)
    kept = [place for place, name in enumerate(names) if not _INDEX.fullmatch(name)]
    columns: list[list[Any]] = [[] for _ in kept]
    most, rows = file.metadata.num_rows, 0
    for batch in file.iter_batches(min(_BATCH, most + 1), use_threads=False):
        rows += batch.num_rows
        if rows > most:
            raise ValueError(f"it has more than the {most} rows that it says it has")
        for column, place in zip(columns, kept, strict=True):
            column += _cells(batch.column(place), names[place], conversions[place])
    return RawTable(tuple(_kept(names)), tuple(columns), range(1, rows + 1))


def _cells(array: Any, name: str, conversion: Conversion) -> list[Any]:
    try:
        return conversion(array)
    except (ValueError, OverflowError) as error:
        raise TableError(
            "bad_table", f"column {name!r} of the Parquet file has a value out of range: {error}"
        ) from error


def _as_they_are(array: Any) -> list[Any]:
    cells: list[Any] = array.to_pylist()
    return cells


def _floats(array: Any) -> list[float | None]:
    return [None if math.isnan(value) else value for value in array.to_numpy(zero_copy_only=False).tolist()]


def _decimals(array: Any) -> list[float | None]:
    return [None if value is None else float(value) for value in array.to_pylist()]


def _times(array: Any) -> list[datetime | None]:
    import pyarrow as pa

    microseconds = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
    return [None if value is None else _EPOCH + timedelta(microseconds=value) for value in microseconds]


def _dictionary(array: Any, conversion: Conversion) -> list[Any]:
    """The cells of an array of indices into a dictionary; equal cells are one object."""
    import pyarrow as pa

    used, places = np.unique(array.indices.fill_null(-1).to_numpy(zero_copy_only=False), return_inverse=True)
    values = conversion(array.dictionary.take(pa.array(used[used >= 0])))
    cells = [None, *values] if len(values) < len(used) else values
    return [cells[place] for place in places.tolist()]
