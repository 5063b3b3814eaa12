"""The text of a table -> :class:`RawTable`. What the text does not tell is refused by name, never guessed."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from ...core.errors import InputError
from .cells import BadRow, RawTable
from .dialect import detect_notation
from .encoding import decode_text, refuse_other_formats
from .errors import TableError
from .notation import PLAIN, looks_like_a_number
from .options import SEPARATORS, TextOptions
from .records import Records, is_plain, plain_records, read_records
from .separator import detect_separator, stated_inside

Header = Callable[[Sequence[str]], bool] | bool | None

DETECT = TextOptions()

_SPACED_DIGITS = re.compile("[0-9] [0-9]")


def read_text(data: bytes, options: TextOptions = DETECT, header: Header = None, widest: int | None = None) -> RawTable:
    """Reads comma-, semicolon-, tab- or pipe-separated text.

    Cells keep their spelling, but for blanks in front of them; the notation of the result says how its numbers are
    spelled. Blank lines are left out, wherever they are. A row with too many or too few cells, or with wrong quotes,
    is rejected with its line and a reason, and does not keep the others from being read.

    Args:
        data: the content of a file or a request.
        options: what is known of the text; the rest is detected.
        header: whether the first record holds the names of the columns: True, False, or a function that decides from
            the cells of that record, stripped. None: it does, as in every file that a model is trained on; a first
            record of numbers is refused.
        widest: most cells of a record; one with more is rejected. None: any number.

    Returns:
        A table of str cells with a notation. It may have no rows.

    Raises:
        InputError: ``empty``; ``bad_table``: not text, or its encoding, separator, header or numbers cannot be told.
    """
    data = bytes(data)
    if options == DETECT and is_plain(data) and data[:4].lower() != b"sep=":
        refuse_other_formats(data)
        text, separator = data.decode("ascii"), ","
        records = plain_records(text, widest)
        notation = None if " " in text and _SPACED_DIGITS.search(text) else PLAIN
    else:
        records, separator = _records(decode_text(data, options), options, widest)
        notation = None
    if not records.cells:
        raise _nothing(records)
    names = _names(records, header)
    columns, lines, rejected = _columns(records, names)
    if notation is None:
        notation = detect_notation(columns, names, lines, separator, options)
    return RawTable(names, columns, lines, notation, rejected)


def _records(text: str, options: TextOptions, widest: int | None) -> tuple[Records, str]:
    """The records of any text, and what separates their cells."""
    separator, text = stated_inside(text)
    if options.separator != "auto":
        separator = SEPARATORS[options.separator]
    separator = separator or detect_separator(text)
    return read_records(text, separator, widest=widest), separator


def _nothing(records: Records) -> InputError:
    if records.rejected:
        row = records.rejected[0]
        return TableError("bad_table", f"line {row.line}: {row.reason}")
    return InputError("empty", "the table is empty")


def _names(records: Records, header: Header) -> tuple[str, ...] | None:
    """The cells of the first record, if it is a header."""
    first, line = tuple(cell.strip() for cell in records.cells[0]), records.lines[0]
    before = [row for row in records.rejected if row.line < line]
    if header is None and not before and all(not cell or looks_like_a_number(cell) for cell in first):
        raise TableError(
            "bad_table",
            f"line {line} has numbers where the names of the columns are expected; add a first line with the names",
        )
    is_header = header is None or (header(first) if callable(header) else header)
    if is_header and before:
        raise TableError("bad_table", f"line {before[0].line}, before the names of the columns: {before[0].reason}")
    return first if is_header else None


def _columns(
    records: Records, names: tuple[str, ...] | None
) -> tuple[tuple[Sequence[str], ...], Sequence[int], tuple[BadRow, ...]]:
    """The cells by column, the lines of the rows, and the rows that are rejected."""
    start = 0 if names is None else 1
    rows, lines, rejected = records.cells[start:], records.lines[start:], records.rejected
    width = Counter(map(len, rows)).most_common(1)[0][0] if names is None else len(names)
    if any(len(cells) != width for cells in rows):
        expected = f"most rows have {width}" if names is None else f"the header has {width}"
        rejected = [*rejected, *_irregular(records, start, width, expected)]
        kept = [(cells, line) for cells, line in zip(rows, lines, strict=True) if len(cells) == width]
        rows, lines = [cells for cells, _ in kept], [line for _, line in kept]
    columns: tuple[Sequence[str], ...] = tuple(zip(*rows, strict=True)) if rows else ((),) * width
    return columns, lines, tuple(sorted(rejected, key=attrgetter("line")))


def _irregular(records: Records, start: int, width: int, expected: str) -> Iterator[BadRow]:
    """The rows with too many or too few cells."""
    for cells, line, last in zip(records.cells[start:], records.lines[start:], records.last_lines[start:], strict=True):
        if len(cells) != width:
            reason = f"{len(cells)} cell{'s' * (len(cells) != 1)}, but {expected}"
            yield BadRow(
                line, f"{reason}; it goes on to line {last}: is a quote not closed?" if last > line else reason
            )
