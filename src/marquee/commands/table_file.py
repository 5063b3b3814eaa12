"""A file of rows, in parts that a server can read: the bytes of each row, and where in the file they are."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from marquee.serving.errors import OperationError

if TYPE_CHECKING:
    from marquee.handlers.inputs.table.cells import Notation, RawTable
    from marquee.handlers.inputs.table.options import TextOptions

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
"""Files of rows; a .json file is a request's body as it is."""

_PLACE = re.compile(r"(^(?:\w+: )?(?:none of \d+ items can be used; )?(?:line|row) |it goes on to line )(\d+)")
"""Where a message of the server names a line or a row of the body."""


def is_table(file: Path) -> bool:
    """Whether the name is that of a file of rows."""
    return file.suffix.lower() in SUFFIXES


def is_json(file: Path) -> bool:
    """Whether the name is that of a file of JSON lines."""
    return file.suffix.lower() in (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Records:
    """The records of a file that can be divided: those of a CSV file, or the lines of JSON lines."""

    above: bytes
    """What each part of the file begins with: a byte order mark, a line such as ``sep=;``, blank lines."""
    records: tuple[bytes, ...]
    """One for each row; of a CSV file the first may hold the names of the columns. Blank lines belong to the record in
    front of them."""
    lines: tuple[int, ...] = ()
    """For each record of a CSV file the line on which it begins; empty where rows are numbered."""
    options: "TextOptions | None" = None
    """How the text of a CSV file is read."""
    may_have_header: bool = field(default=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.records)

    def body(self, first: int, last: int, header: bool) -> bytes:
        """The records ``first`` to ``last``, without that, as a body of their own.

        Args:
            first: the first of them.
            last: the record behind the last of them.
            header: whether the first record of the file is a header, which then stands above them.
        """
        names = self.records[:1] if header and first else ()
        return b"".join((self.above, *names, *self.records[first:last]))

    def place(self, record: int, header: bool) -> int:
        """Line, or number of the row, of a record."""
        return self.lines[record] if self.lines else record + 1 - header

    def in_file(self, message: str, first: int, header: bool) -> str:
        """A message about the body of the records from ``first`` on, with places in the file."""
        left_out = first
        if self.lines:
            start = self.lines[0] + (self.lines[1] - self.lines[0] if header and first else 0)
            left_out = self.lines[first] - start
        return _PLACE.sub(lambda match: f"{match[1]}{int(match[2]) + left_out}", message)


def read_file(file: Path) -> bytes:
    """The content of a file of rows.

    Raises:
        OperationError: it cannot be read, or is empty.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise OperationError(f"{file}: {error.strerror or error}") from error
    if not data:
        raise OperationError(f"{file}: the table is empty")
    return data


def records_of(file: Path, data: bytes, options: "TextOptions | None") -> Records | None:
    """The records of a file; None for a file that cannot be divided, such as Parquet.

    Args:
        file: its name tells the kind.
        data: its content.
        options: how the text of a CSV file is written, as far as it is known; None: nothing is.

    Raises:
        InputError: the text of a CSV file cannot be read.
    """
    if file.suffix.lower() in (".csv", ".tsv"):
        return _csv_records(data, options)
    return _json_records(data) if is_json(file) else None


def _csv_records(data: bytes, options: "TextOptions | None") -> Records | None:
    from marquee.handlers.inputs.table.options import TextOptions

    options = options or TextOptions()
    table = _read(data, options, header=False)
    starts = sorted([*table.lines, *(row.line for row in table.rejected)])
    mark, lines = _lines(data, options)
    ends = [*(start - 1 for start in starts[1:]), len(lines)]
    records = tuple(b"".join(lines[start - 1 : end]) for start, end in zip(starts, ends, strict=True))
    above = mark + b"".join(lines[: starts[0] - 1])
    return Records(above, records, tuple(starts), options, may_have_header=True)


def _lines(data: bytes, options: "TextOptions") -> tuple[bytes, list[bytes]]:
    """A byte order mark, and the lines in the encoding of the file: the server reads what the file says."""
    marks = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"\xef\xbb\xbf": ""}
    mark = next((mark for mark in marks if data.startswith(mark)), b"")
    stated = {"utf-16": "utf-16-le"}.get(options.encoding, options.encoding)
    encoding = marks.get(mark) or (stated if stated.startswith("utf-16") else "latin-1")  # which has every byte
    text = data[len(mark) :].decode(encoding)
    return mark, [line.encode(encoding) for line in io.StringIO(text, newline="")]


def _json_records(data: bytes) -> Records | None:
    """The lines; None where they are not JSON values of their own, such as those of one document."""
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    lines = [line for line in lines if line]
    if not all(line[:1] + line[-1:] in (b"{}", b"[]") for line in lines):
        return None
    return Records(b"", tuple(line + b"\n" for line in lines)) if lines else None


@dataclass(frozen=True)
class Reading:
    """How a CSV file is read as a whole."""

    options: "TextOptions"
    header: bool
    columns: int
    notation: "Notation | None"

    @classmethod
    def of(cls, data: bytes, options: "TextOptions", header: bool) -> "Reading":
        """Reads the file.

        Raises:
            InputError: it cannot be read.
        """
        table = _read(data, options, header)
        return cls(options, header, len(table.columns), table.notation)

    def agrees(self, part: bytes) -> bool:
        """Whether a part of the file by itself is read as it is within its file."""
        from marquee.handlers.core.errors import InputError

        try:
            alone = _read(part, self.options, self.header)
        except InputError:
            return False
        return len(alone.columns) == self.columns and _numbers_alike(alone, self.notation)


def _read(data: bytes, options: "TextOptions", header: bool) -> "RawTable":
    from marquee.handlers.inputs.table.text import read_text

    return read_text(data, options, header=header)


def _numbers_alike(part: "RawTable", notation: "Notation | None") -> bool:
    """Whether the cells mean the same numbers under the notation of the part as under another one."""
    from marquee.handlers.inputs.table.notation import parse_number

    def number(cell: str, written: "Notation | None") -> float | None:
        try:
            return None if written is None else parse_number(cell, written)
        except ValueError:
            return None

    return part.notation == notation or all(
        number(cell, part.notation) == number(cell, notation) for column in part.columns for cell in column
    )
