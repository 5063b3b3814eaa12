"""``marquee predict`` for rows of a table: a CSV, Parquet or JSON Lines file in, a CSV file out.

A file is sent as it is if it is small, and in parts if it is long: for CSV, each has the header and the next rows.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.commands.table_answers import Answers
from marquee.commands.table_file import Reading, Records, is_json, read_file, records_of
from marquee.serving.errors import OperationError

if TYPE_CHECKING:
    from marquee.handlers.inputs.table.options import TextOptions
    from marquee.serving.client import Answer

ROWS = 5_000
"""Rows in one request."""
BYTES = 4_000_000
"""Size of these rows above which a request has fewer of them."""
REFUSALS = 256
"""Requests without a good row that are halved, so that each row gets its own error; the rows of others share one."""

_NONE_GOOD = re.compile(r"none of (\d+) items can be used; ")
_TOO_MUCH = ("too_many_instances", "too_large", "http_413")

Ask = Callable[[bytes], "Answer"]
"""Sends a body."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a file is sent at once, and how its text is written as far as the model knows."""

    rows: int = ROWS
    bytes: int = BYTES
    text: "TextOptions | None" = None

    @classmethod
    def of(cls, described: Any) -> "Limits":
        """Those of a model.

        Args:
            described: its description, as the management API has it; without one the usual limits hold.
        """
        try:
            document = json.loads(described) if isinstance(described, str) else described
            table = document["input"]
            limits = cls(rows=min(ROWS, int(table["max_rows"])), bytes=min(BYTES, int(table["max_bytes"])))
            return replace(limits, text=_options(table["text"])) if "text" in table else limits
        except (ValueError, TypeError, LookupError):
            return cls()


def _options(text: Any) -> "TextOptions":
    from marquee.handlers.inputs.table.options import TextOptions

    return TextOptions(**text)


def predict_table(file: Path, ask: Ask, out: Path | None, limits: Limits) -> int:
    """Sends the rows of a file, prints or writes the answers as CSV, and says how many rows have none.

    Args:
        file: CSV, TSV, Parquet or JSON Lines.
        ask: sends a body.
        out: the file to write; None: standard output.
        limits: of one request.

    Returns:
        The number of rows without an answer.

    Raises:
        OperationError: the file cannot be read, or the server refuses it as a whole; nothing is written then.
    """
    answers = _answers(file, ask, limits)
    if out is None:
        print(answers.text(), end="")
    else:
        from marquee.training.core.files import write_atomic

        write_atomic(out, answers.text())
        print(f"{out}: answers to {len(answers)} row{'s' * (len(answers) != 1)}")
    if failed := len(answers.errors):
        summary = f"rows without an answer: {failed} of {len(answers)}; first: {answers.errors[0]}"
        print(f"{file}: {summary}", file=sys.stderr)
    return len(answers.errors)


def _answers(file: Path, ask: Ask, limits: Limits) -> Answers:
    from marquee.handlers.core.errors import InputError

    data = read_file(file)
    records, problem = None, None
    try:
        records = records_of(file, data, limits.text)
    except InputError as error:  # the server may know more of the text
        problem = OperationError(f"{file}: {error.message}")
    if records is not None:
        return _Sender(file, data, records, ask, limits).send()
    if problem and len(data) > limits.bytes:
        raise problem
    answer = ask(data)
    predictions = _predictions(file, answer)
    if predictions is None:
        raise OperationError(f"{file}: {answer.error}")
    return Answers.numbered(predictions)


def _predictions(file: Path, answer: "Answer") -> list[dict[str, Any]] | None:
    """One for each row; None where the body is refused.

    Raises:
        OperationError: it is one answer and no list, as only JSON of a single object has.
    """
    if "error" in answer.body:
        return None
    if "predictions" not in answer.body and not is_json(file):
        raise OperationError(f"{file}: the model answers single items; is it a model of tables?")
    found: list[dict[str, Any]] = answer.body.get("predictions", [answer.body])
    return found


class _Sender:
    """Sends the records of one file, in as many parts as it takes.

    The server decides whether the first record of a CSV file is a header: it then has one answer fewer than the part
    has records.

    Args:
        file: for messages.
        data: its content.
        records: in it.
        ask: sends a body.
        limits: of one request.
    """

    def __init__(self, file: Path, data: bytes, records: Records, ask: Ask, limits: Limits) -> None:
        self._file, self._data, self._records, self._ask, self._limits = file, data, records, ask, limits
        self._header: bool | None = None if records.may_have_header else False
        self._readings: dict[bool, Reading | None] = {}
        self._refusals = 0
        self._answers = Answers("line" if records.lines else "row")

    def send(self) -> Answers:
        """All of them.

        Raises:
            OperationError: the server refuses the file, or a part cannot be read without the others.
        """
        first = 0
        while first < len(self._records):
            first = self._send(first, self._end(first))
        return self._answers

    def _end(self, first: int) -> int:
        """The record behind those of the part that begins with ``first``: as many as the limits allow."""
        records = self._records.records
        least = self._least(first)
        most, size = self._limits.rows + least - 1, len(self._records.body(0, 1, header=True)) if first else 0
        last = first
        while last < len(records) and last - first < most:
            size += len(records[last])
            if size > self._limits.bytes and last - first >= least:
                break
            last += 1
        return last

    def _send(self, first: int, last: int) -> int:
        """Sends the records ``first`` to ``last``, without that; returns the record to go on with."""
        is_whole = first == 0 and last == len(self._records)
        body = self._data if is_whole else self._records.body(first, last, bool(self._header))
        if not is_whole and not self._stands_alone(body):
            raise OperationError(
                f"{self._file}: sent without the others, the rows from line {self._records.lines[first]} on do not "
                "show how numbers are written; write them with a decimal point and nothing between thousands"
            )
        answer = self._ask(body)
        if (predictions := _predictions(self._file, answer)) is not None:
            if is_whole and not self._are_rows_of(first, last, len(predictions)):
                self._answers = Answers.numbered(predictions)  # the server has read the file in another way
            else:
                self._add(first, last, predictions)
            return last
        error = answer.body["error"]
        found = _NONE_GOOD.match(str(error.get("message")))
        if found and self._are_rows_of(first, last, int(found[1])):
            self._see_header(first, last, int(found[1]))
            self._halve(first, last, error)
            return last
        too_much, least = error.get("code") in _TOO_MUCH, self._least(first)
        if too_much and last - first > least:
            half = max(1, (last - first) // 2)
            self._limits = replace(self._limits, rows=half, bytes=max(1, len(body) // 2))
            return first
        if too_much and last - first == 2:
            return self._first_alone(error)
        if last - first == least == 1 and not found and (too_much or not self._records.lines):
            self._add(first, last, [{"error": error}])
            return last
        raise OperationError(f"{self._file}: {self._records.in_file(str(answer.error), first, bool(self._header))}")

    def _least(self, first: int) -> int:
        """The least number of records of a part that has a row for sure: the first of a file may be the header."""
        return 2 if first == 0 and self._header is None else 1

    def _first_alone(self, error: dict[str, Any]) -> int:
        """Sends the first record alone, after the server has refused the first two as too much for one request.

        If it is no row, the second has this error. Returns the record to go on with.
        """
        answer = self._ask(self._records.body(0, 1, header=False))
        if (predictions := _predictions(self._file, answer)) is not None:
            self._add(0, 1, predictions)
            return 1
        self._header = True
        self._add(1, 2, [{"error": error}])
        return 2

    def _halve(self, first: int, last: int, error: dict[str, Any]) -> None:
        """Sends records of which none is good in parts so small that the server says what is wrong with each."""
        start = first + (first == 0 and bool(self._header))
        self._refusals += 1
        middle = (start + last) // 2
        halves = [(start, middle), (middle, last)]
        bodies = [self._records.body(*half, bool(self._header)) for half in halves]
        if self._refusals > REFUSALS or not all(map(self._stands_alone, bodies)):
            self._add(start, last, [{"error": error}] * (last - start), about=first)
            return
        for half in halves:
            self._send(*half)

    def _add(self, first: int, last: int, predictions: Sequence[dict[str, Any]], about: int | None = None) -> None:
        """Adds the answers to the records of a part, whose body began with the record ``about``."""
        about = first if about is None else about
        self._see_header(first, last, len(predictions))
        header = bool(self._header)
        start = first + (first == 0 and header)
        for record, prediction in zip(range(start, last), predictions, strict=True):
            place = self._records.place(record, header)
            self._answers.add(place, prediction, lambda message: self._records.in_file(message, about, header))

    def _see_header(self, first: int, last: int, rows: int) -> None:
        """Finds out whether the first record is a header.

        Args:
            first: first record of a part.
            last: the record behind the last.
            rows: that the server has found in the part.
        """
        if not self._are_rows_of(first, last, rows):
            raise OperationError(f"{self._file}: the server did not give an answer to each row")
        if first == 0 and self._header is None:
            self._header = rows < last - first

    def _are_rows_of(self, first: int, last: int, rows: int) -> bool:
        """Whether these records are so many rows; the first of a file may be the header."""
        headers = (self._header,) if first or self._header is not None else (True, False)
        return rows in [last - first - (first == 0 and bool(header)) for header in headers]

    def _stands_alone(self, body: bytes) -> bool:
        """Whether the body of a part is read as within its file, with or without a header."""
        headers = (True, False) if self._header is None else (self._header,)
        return all(reading is None or reading.agrees(body) for reading in map(self._reading, headers))

    def _reading(self, header: bool) -> Reading | None:
        """How the file is read; None if it is none of CSV, or cannot be read in this way."""
        from marquee.handlers.core.errors import InputError

        if header not in self._readings and self._records.options is not None:
            try:
                self._readings[header] = Reading.of(self._data, self._records.options, header)
            except InputError:
                self._readings[header] = None
        return self._readings.get(header)
