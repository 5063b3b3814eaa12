"""The pages of a Parquet file that a client sent: what they take in memory, before any of them is decompressed.

The sizes in a file's footer are not needed to read it, so a crafted file may say anything there. Those in the headers
of its pages are what a reader allocates. pyarrow does not give them, and ends the process where it is asked what a
damaged footer says of a column; so both are read here.
"""

from collections.abc import Iterator

from .errors import TableError
from .thrift import I32, I64, Compact, Struct

MOST_PAGES = 50_000
"""Pages of a file, with the columns of its row groups, above which it is refused: each takes some microseconds."""
LARGEST_FOOTER = 2_000_000
"""Bytes of a footer above which a file is refused."""
_MAGIC = b"PAR1"
_LENGTH = 4
"""Bytes in which the length of the footer is written, in front of the last magic."""

_VALUES, _DATA_PAGE, _DICTIONARY_PAGE = 5, 9, 11
_COLUMNS, _OF_COLUMN, _ROW_GROUPS = 1, 3, 4
_FOOTER = {_ROW_GROUPS: [{_COLUMNS: [{_OF_COLUMN: {_VALUES: I64, _DATA_PAGE: I64, _DICTIONARY_PAGE: I64}}]}]}
"""What is read of the footer: of each column in each row group how many values it has, and where its pages begin."""

_KIND, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_FIRST_VERSION, _SECOND_VERSION = 5, 8
_COUNT, _ENCODING, _SECOND_ENCODING = 1, 2, 4
_PAGE = {
    _KIND: I32,
    _UNCOMPRESSED: I32,
    _COMPRESSED: I32,
    _FIRST_VERSION: {_COUNT: I32, _ENCODING: I32},
    _SECOND_VERSION: {_COUNT: I32, _SECOND_ENCODING: I32},
}
"""What is read of the header of a page: its kind, its sizes, and where it is one of values how many and how encoded."""
_WITH_VALUES = {0: (_FIRST_VERSION, _ENCODING), 3: (_SECOND_VERSION, _SECOND_ENCODING)}
"""Kind of a page with values -> the part of the header for it, and in there the encoding."""
_DELTA_BYTE_ARRAY = 7
"""An encoding in which a text is as much of the one before as a number says, and a few letters."""


def decompressed_size(data: bytes, most: int) -> int:
    """Bytes that the pages of a file take when they are decompressed.

    Args:
        data: the file.
        most: counting stops beyond this number.

    Raises:
        TableError: ``bad_table``: there are very many pages, or texts are encoded so that few bytes stand for many.
        ValueError: the file is damaged.
    """
    size = 0
    for number, page in enumerate(_pages(data)):
        if number >= MOST_PAGES:
            raise TableError("bad_table", f"the Parquet file has more than {MOST_PAGES} pages; write fewer")
        size += max(_number(page, _UNCOMPRESSED), _number(page, _COMPRESSED)) if page else 0
        if size > most:
            break
    return size


def _pages(data: bytes) -> Iterator[Struct]:
    """The header of each page, as a reader meets them; an empty one in front of those of a column in a row group."""
    for group in _footer(data).get(_ROW_GROUPS, ()):
        for column in group.get(_COLUMNS, ()):
            yield {}
            chunk = column.get(_OF_COLUMN, {})
            left, at = _number(chunk, _VALUES), _number(chunk, _DATA_PAGE)
            if 0 < chunk.get(_DICTIONARY_PAGE, 0) < at:
                at = chunk[_DICTIONARY_PAGE]
            while left > 0:
                reader = Compact(data, at)
                page = reader.struct(_PAGE)
                yield page
                left -= _values(page)
                at = reader.at + _number(page, _COMPRESSED)


def _footer(data: bytes) -> Struct:
    end = len(data) - len(_MAGIC) - _LENGTH
    length = int.from_bytes(data[end : end + _LENGTH], "little")
    if data[-len(_MAGIC) :] != _MAGIC or not 0 < length <= end:
        raise ValueError("it has no footer")
    if length > LARGEST_FOOTER:
        text = f"the footer of the Parquet file has {length} bytes; at most {LARGEST_FOOTER} are accepted"
        raise TableError("bad_table", f"{text}; write fewer columns or row groups")
    return Compact(data, end - length).struct(_FOOTER)


def _values(page: Struct) -> int:
    """How many values a page has; none if it is a dictionary or an index."""
    if (kind := _number(page, _KIND)) not in _WITH_VALUES:
        return 0
    version, encoding = _WITH_VALUES[kind]
    part = page.get(version, {})
    if _number(part, encoding) == _DELTA_BYTE_ARRAY:
        raise TableError("bad_table", "the Parquet file has the encoding DELTA_BYTE_ARRAY; write dictionaries of texts")
    return _number(part, _COUNT)


def _number(struct: Struct, field: int) -> int:
    value: int = struct.get(field, -1)
    if value < 0:
        raise ValueError("a part of it lacks a number, or has a negative one")
    return value
