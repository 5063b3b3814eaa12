"""Text and separator -> records: the cells of each row, and the line on which it begins."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from .cells import BadRow

MAX_CELL = 131_072
"""Most characters of one cell, and of a record that goes over several lines. It is the default of Python's csv module,
whose limit holds for the whole process."""

_PLAIN_BYTES = bytes(byte for byte in (*b"\r\n", *range(0x20, 0x7F)) if byte not in b"\"';|")


@dataclass
class Records:
    """The records of a table, of as many cells as each has; blank lines are left out."""

    cells: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """The line on which each begins, 1 for the first."""
    last_lines: list[int] = field(default_factory=list)
    """The line on which each ends."""
    rejected: list[BadRow] = field(default_factory=list)

    def __len__(self) -> int:
        """How many were read, with those that are rejected."""
        return len(self.cells) + len(self.rejected)


def is_plain(data: bytes) -> bool:
    """Whether the text has only printable ASCII without quotes and separators other than the comma.

    Each line of such a text is a record, commas separate its cells, and numbers in it can have neither decimal commas
    nor thousands separators but the space.
    """
    return not data.translate(None, _PLAIN_BYTES)


def plain_records(text: str, widest: int | None = None) -> Records:
    """The records of a text that :func:`is_plain`.

    Args:
        text: decoded.
        widest: most cells of a record; one with more is rejected. None: any number.
    """
    rows = text.splitlines()
    longest = max(map(len, rows), default=0)
    is_narrow = widest is None or longest < widest or max(row.count(",") for row in rows) < widest
    if longest > MAX_CELL or not is_narrow:
        return read_records(text, ",", widest=widest)  # which knows what is too long
    numbered = [(line, row.split(",")) for line, row in enumerate(rows, 1) if row and not row.isspace()]
    cells = [row for _, row in numbered]
    if ", " in text or " " in {row[:1] for row in rows}:
        cells = [[cell.lstrip(" ") for cell in row] for row in cells]
    lines = [line for line, _ in numbered]
    return Records(cells, lines, lines)


def read_records(text: str, separator: str, most: int | None = None, widest: int | None = None) -> Records:
    """The records of any text.

    Cells may be quoted with ``"``; a quote inside of one is doubled, and line breaks inside of one are part of it.
    Blanks in front of a cell do not count. A quote inside of a cell that does not begin with one is a character like
    any other. A row whose quotes are wrong is rejected, and reading goes on with the line after the one on which it
    begins. The work is proportional to the length of the text, whatever its quotes are.

    Args:
        text: decoded, without NUL.
        separator: one character.
        most: how many records to read at most, with those that are rejected; None: all.
        widest: most cells of a record; one with more is rejected. None: any number.
    """
    return _Reader(list(io.StringIO(text, newline="")), separator, most, widest).read()


class _Reader:
    """Reads the records of lines; each line is looked at a few times at most.

    As long as quotes are right, a single reader of the csv module goes through the lines. After a record with wrong
    quotes, each line that this reader has seen may begin a record of its own that goes on to the end of the text. Such
    records are found one by one: whether and where a quote that is open at the beginning of a line gets closed does
    not depend on where it was opened, so it is found out once for each line.
    """

    def __init__(self, lines: list[str], separator: str, most: int | None, widest: int | None) -> None:
        self._lines, self._separator, self._most, self._widest = lines, separator, most, widest
        self._records = Records()
        self._ends: dict[int, int | str] = {}
        """Index of a line that begins inside of a quote -> the index behind the last line of the record, or why there
        is no such record."""
        self._offsets: Sequence[int] = ()
        """Characters in front of each line."""

    def read(self) -> Records:
        """All records, or as many as are wanted."""
        start = 0  # index of the line on which the next record begins
        while start < len(self._lines) and not self._has_enough():
            start, seen = self._read_on(start)
            while start < seen and not self._has_enough():
                start = self._read_one(start)
        return self._records

    def _has_enough(self) -> bool:
        return self._most is not None and len(self._records) >= self._most

    def _read_on(self, start: int) -> tuple[int, int]:
        """Reads up to the end, or to the first row that is wrong.

        Returns:
            Index of the line to go on with, and the index behind the last line that was looked at.
        """
        reader = self._csv(self._from(start))
        first = start
        try:
            for cells in reader:
                begin, start = start, first + reader.line_num
                if start - begin > 1 and (reason := self._too_long(begin, start)):
                    return self._reject(begin, reason), start
                self._add(cells, begin, start)
                if self._has_enough():
                    break
        except csv.Error as error:
            return self._reject(start, _reason(error)), first + reader.line_num
        return start, start

    def _read_one(self, start: int) -> int:
        """Reads one record; returns the index of the line to go on with."""
        end = self._end(start)
        if isinstance(end, str):
            return self._reject(start, end)
        if end - start > 1 and (reason := self._too_long(start, end)):
            return self._reject(start, reason)
        self._add(next(self._csv(self._lines[start:end])), start, end)
        return end

    def _end(self, start: int) -> int | str:
        """Index behind the last line of the record that begins on a line, or why there is no such record."""
        end = self._step(start, "")
        if end is not None:
            return end
        inside = []
        line = start + 1
        while line < len(self._lines) and line not in self._ends and (end := self._step(line, '"')) is None:
            inside.append(line)
            line += 1
        if end is None:
            end = self._ends.get(line, _NOT_CLOSED)
        self._ends[line] = end
        self._ends.update(dict.fromkeys(inside, end))
        return end

    def _step(self, line: int, before: str) -> int | str | None:
        """What a line does to a record: end it (the index behind the line), spoil it (why), or go on (None).

        Args:
            line: its index.
            before: a quote if the line begins inside of one.
        """
        try:
            next(self._csv([before + self._lines[line]]))
        except csv.Error as error:
            return None if _is_open(error) else _reason(error)
        return line + 1

    def _add(self, cells: list[str], start: int, end: int) -> None:
        """Keeps a record, unless it is a blank line or has too many cells."""
        if not cells or (len(cells) == 1 and not cells[0].strip() and '"' not in self._lines[start]):
            return
        if self._widest is not None and len(cells) > self._widest:
            self._reject(start, f"more than {self._widest} cells")
            return
        self._records.cells.append(cells)
        self._records.lines.append(start + 1)
        self._records.last_lines.append(end)

    def _reject(self, line: int, reason: str) -> int:
        self._records.rejected.append(BadRow(line + 1, reason))
        return line + 1

    def _too_long(self, start: int, end: int) -> str:
        """Why a record of these lines is too long; empty if it is not."""
        self._offsets = self._offsets or list(accumulate(map(len, self._lines), initial=0))
        if self._offsets[end] - self._offsets[start] <= MAX_CELL:
            return ""
        return f"it goes on to line {end}, with more than {MAX_CELL} characters; is a quote not closed?"

    def _csv(self, lines: Sequence[str] | Iterator[str]) -> Any:  # the type of readers has no public name
        return csv.reader(lines, delimiter=self._separator, strict=True, skipinitialspace=True)

    def _from(self, start: int) -> Iterator[str]:
        for index in range(start, len(self._lines)):
            yield self._lines[index]


_NOT_CLOSED = "the quote of a cell is not closed"


def _is_open(error: csv.Error) -> bool:
    return "unexpected end" in str(error)


def _reason(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell has more than {MAX_CELL} characters; is its quote closed?"
    if _is_open(error):
        return _NOT_CLOSED
    return "a quoted cell goes on behind its closing quote; a quote inside of a quoted cell is doubled"
