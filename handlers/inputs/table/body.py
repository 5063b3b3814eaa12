"""Which of its forms the body of a request has, and the rows in it.

* ``[[...], ...]``, ``[{...}, ...]``: rows, as lists of the features' cells in the order of the schema or as objects of
  column names; ``[...]`` of cells: one row;
* ``{...}``: one row as an object of column names; the only form whose answer is no list;
* ``{"instances": rows}``, ``{"inputs": rows}``, ``{"inputs": {name: [values]}}``;
* ``{"dataframe_split": {"columns": [...], "data": [[...], ...]}}``, ``{"dataframe_records": [{...}, ...]}``;
* JSON lines: a row on each line;
* CSV, whose first record is a header if and only if each of its cells is the name of a column and none is there twice;
  one that is meant as a header but spelled in another way is refused (:meth:`.names.Names.is_header`);
* Parquet.

An object is one of the wrappers above, and no row, if one of their keys is its only one but for those in
:data:`COMPANIONS`. A row of a table that has no column but ``instances`` is therefore sent as ``[{"instances": 1}]``.
A key that is twice in an object counts with its last value.
"""

import json
from dataclasses import replace
from typing import Any

from ...core.json_text import load
from .cells import RawTable
from .errors import TableError
from .names import Names
from .options import TextOptions
from .parquet import read_parquet
from .rows import Rows, from_columns, from_rows, from_split
from .spec import TableSpec
from .text import read_text
from .values import quote

WRAPPERS = ("instances", "inputs", "dataframe_split", "dataframe_records")
"""Keys of an object around rows."""
COMPANIONS = frozenset({"parameters", "params", "signature_name"})
"""Keys that clients of other servers send beside those; they are not looked at."""

_PARQUET = b"PAR1"
_DECOMPRESSED = 10
"""Bytes that the columns of a Parquet file may have for each byte that a body may have: they are compressed."""
_LINES, _LEAST_LINES = 4, 10_000
"""Lines that a text may have for each row that a request may hold, since some may be blank or go on to the next one;
and the lines that it may have whatever that number is."""
_CELLS, _LEAST_CELLS = 4, 1000
"""Cells of a line, or columns, that a table may have for each column of the schema, and whatever their number is: more
would only take time."""
_DIGITS = 4_000
"""Longest integer that is read as one; longer ones count as infinite. The server reads documents with Python's parser,
which refuses integers of more than 4,300 digits."""
_UTF8_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


def read_body(body: Any, spec: TableSpec, names: Names) -> tuple[Rows, bool]:
    """The rows of one request, not decoded yet.

    Args:
        body: bytes, or JSON that is parsed already.
        spec: the schema, and how much a request may hold.
        names: of the schema.

    Returns:
        The rows, at least one, and whether the answer is a list.

    Raises:
        InputError: the body as a whole cannot be used.
    """
    if not isinstance(body, (bytes, bytearray)):
        return _document(body, spec, names)
    if len(body) > spec.max_bytes:
        raise TableError("too_large", f"the body has {len(body)} bytes; at most {spec.max_bytes}")
    if body.startswith(_PARQUET):
        return _file(Rows(_parquet(body, spec, names)), spec), True
    first = _first(body)
    if not first:
        raise TableError("empty", "the body is empty; send at least one row")
    if first in (b"[", b"{"):
        return _json(body, spec, names)
    _check_lines(body, spec)
    return _file(Rows(read_text(bytes(body), _options(body, spec), names.is_header, _widest(spec))), spec), True


def _parquet(body: bytes | bytearray, spec: TableSpec, names: Names) -> RawTable:
    return read_parquet(
        body,
        max_rows=spec.max_rows,
        max_bytes=spec.max_bytes * _DECOMPRESSED,
        widest=_widest(spec),
        check=names.check,
    )


def _widest(spec: TableSpec) -> int:
    return max(_CELLS * len(spec.columns), _LEAST_CELLS)


def count_rows(body: Any, spec: TableSpec) -> int:
    """How many rows a body has, good and bad, without decoding them.

    Args:
        body: bytes, or JSON that is parsed already.
        spec: the schema, and how much a request may hold.

    Raises:
        InputError: the body as a whole cannot be used.
    """
    found, _ = read_body(body, spec, Names(spec))
    return len(found.table) + len(found.table.rejected)


def _first(body: bytes | bytearray) -> bytes | bytearray:
    """The first byte that is not blank; a byte order mark does not count."""
    return (body[len(_UTF8_MARK) :] if body.startswith(_UTF8_MARK) else body).lstrip(_BLANK)[:1]


def _check_lines(text: bytes | bytearray, spec: TableSpec) -> None:
    """Refuses far too many lines before their cells are told apart, which takes seconds where there are millions."""
    most = max(_LINES * spec.max_rows, _LEAST_LINES)
    lines = text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")
    if lines > most:
        raise TableError("too_many_instances", f"{lines} lines; at most {most} for {spec.max_rows} rows")


def _options(text: bytes | bytearray, spec: TableSpec) -> TextOptions:
    """What is known of a text: what was stated of the table that the model was trained on.

    A server decodes what is sent as text, so that it may arrive in UTF-8 whatever encoding was stated.
    """
    if spec.text.encoding in ("auto", "utf-8") or b"\x00" in text:  # text of UTF-16 has them
        return spec.text
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return spec.text
    return replace(spec.text, encoding="auto")


def _file(rows: Rows, spec: TableSpec) -> Rows:
    _check_count(len(rows.table) + len(rows.table.rejected), spec)
    return rows


def _check_count(rows: int, spec: TableSpec) -> None:
    if not rows:
        raise TableError("bad_table", "expected at least one row, got none")
    if rows > spec.max_rows:
        raise TableError("too_many_instances", f"{rows} rows; at most {spec.max_rows} in one request")


def _json(body: bytes | bytearray, spec: TableSpec, names: Names) -> tuple[Rows, bool]:
    try:
        document = _parse(body)
    except ValueError as error:
        first, _, others = bytes(body).removeprefix(_UTF8_MARK).strip().partition(b"\n")
        if others and first[:1] + first.rstrip()[-1:] in (
            b"{}",
            b"[]",
        ):  # a value of its own, not the first line of one
            return _json_lines(body, spec, names), True
        raise TableError("bad_request", f"the body is not valid JSON: {error}") from error
    return _document(document, spec, names)


def _json_lines(body: bytes | bytearray, spec: TableSpec, names: Names) -> Rows:
    _check_lines(body, spec)
    lines = [line for line in bytes(body).split(b"\n") if line.strip()]
    _check_count(len(lines), spec)
    return from_rows(list(map(_parse_line, lines)), names)


def _parse_line(line: bytes) -> Any:
    try:
        return _parse(line)
    except ValueError as error:
        return TableError("bad_request", f"not valid JSON: {error}")


def _parse(text: bytes | bytearray) -> Any:
    """JSON -> the document, in which numbers that are not finite are floats, for the decoder to name their cells.

    Raises:
        ValueError: it is not valid JSON, or is nested too deeply.
    """
    try:
        return load(text)
    except ValueError:  # also where the faster parser met NaN or 1e999
        try:
            return json.loads(text, parse_int=_integer)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else float(text)


def _document(document: Any, spec: TableSpec, names: Names) -> tuple[Rows, bool]:
    if isinstance(document, list):
        rows = document if any(isinstance(row, (list, dict)) for row in document) or not document else [document]
        return _rows(rows, spec, names), True
    if not isinstance(document, dict):
        raise TableError("bad_table", f"expected rows: [[...]], [{{...}}] or {{...}}, got {quote(document)}")
    key = _wrapper(document, names)
    if key is None:
        return from_rows([document], names), False
    content = document[key]
    try:
        return _within(key, content, spec, names), True
    except TableError as error:
        raise TableError(error.code, f"{key}: {error.message}") from error


def _wrapper(document: dict[str, Any], names: Names) -> str | None:
    """The key around the rows; None for an object that is a row.

    Raises:
        TableError: there is such a key, and another one that belongs to no form.
    """
    found = [key for key in WRAPPERS if key in document]
    if not found:
        return None
    others = [key for key in document if key != found[0] and key not in COMPANIONS]
    if not others:
        return found[0]
    if any(key in names for key in document):
        return None
    raise TableError("bad_table", f"expected nothing beside {found[0]!r}, got {quote(others[0])}")


def _within(key: str, content: Any, spec: TableSpec, names: Names) -> Rows:
    if key == "dataframe_split":
        return _split(content, spec, names)
    if key == "inputs" and isinstance(content, dict):
        columns = [cells for cells in content.values() if isinstance(cells, list)]
        if columns:
            _check_count(max(map(len, columns)), spec)
        return from_columns(content, names)
    return _rows(content, spec, names)


def _split(content: Any, spec: TableSpec, names: Names) -> Rows:
    if not isinstance(content, dict) or not {"columns", "data"} <= content.keys() <= {"columns", "data", "index"}:
        raise TableError("bad_table", 'expected {"columns": [names], "data": [[cells], ...]}')
    columns, data = content["columns"], content["data"]
    if not isinstance(columns, list):
        raise TableError("bad_table", f"columns: expected a list of names, got {quote(columns)}")
    _check_list(data, spec)
    return from_split(columns, data, names)


def _rows(values: Any, spec: TableSpec, names: Names) -> Rows:
    _check_list(values, spec)
    return from_rows(values, names)


def _check_list(values: Any, spec: TableSpec) -> None:
    if not isinstance(values, list):
        raise TableError("bad_table", f"expected a list of rows, got {quote(values)}")
    _check_count(len(values), spec)
