"""Bytes -> text: encodings are detected where the bytes tell, and refused by name where they do not."""

import codecs
import re
from typing import AnyStr

from ...core.errors import InputError
from .errors import TableError
from .options import TextOptions

_WORKBOOK = "a workbook of Excel ({}); save the sheet as CSV or Parquet"
_OTHER_FORMATS = (
    (codecs.BOM_UTF32_LE, "UTF-32; save it as UTF-8"),
    (codecs.BOM_UTF32_BE, "UTF-32; save it as UTF-8"),
    (b"\x1f\x8b", "gzip-compressed data; decompress it first"),
    (b"BZh", "bzip2-compressed data; decompress it first"),
    (b"\xfd7zXZ\x00", "xz-compressed data; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data; decompress it first"),
    (b"\xd0\xcf\x11\xe0", _WORKBOOK.format(".xls")),
    (b"PAR1", "a Parquet file"),
    (b"PARE", "an encrypted Parquet file; write it without encryption"),
    (b"%PDF-", "a PDF document"),
    (b"SQLite format 3\x00", "an SQLite database; write its table as CSV or Parquet"),
    (b"<!DOCTYPE", "a web page, not the file that it links to"),
    (b"<!doctype", "a web page, not the file that it links to"),
    (b"<html", "a web page, not the file that it links to"),
)
"""First bytes of files that are taken for CSV now and then, and what such a file is."""

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_STATE_IT = "save the table as UTF-8, or state its encoding (--table.encoding where a model is trained)"

# Single-byte encodings give text from any bytes. Western European text has its accented letters next to plain ones and
# its signs next to blanks and digits; read as cp1252, Cyrillic, Greek, Chinese or Polish text does not.
_LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüœŒ"
_SIGNS = "€£¥¢§©®™°²³µ·±×½¼¾«»‹›‘’‚“”„–—…•¿¡ºª´\u00a0"
_DOUBTFUL = re.compile(
    rf"[^\x00-\x7f{_LETTERS}{_SIGNS}]"  # letters and signs that hardly occur
    rf"|[{_LETTERS}]{{3}}|(?<![A-Za-z])[{_LETTERS}]{{2}}(?![A-Za-z])"  # a word of accented letters
    r"|[^\W\d_mMnNtT]³|³[^\W\d_]|[^\W\d_][€£¥¢§±×½¼¾¿¡]|[£¥±][^\W\d_]"  # a sign inside of a word
)


def decode_text(data: bytes, options: TextOptions) -> str:
    """The text of a table, without a byte order mark.

    Raises:
        InputError: ``empty``; ``bad_table``: the content of a file of another format, bytes that are not text of the
            stated encoding, or of one that cannot be told from the bytes.
    """
    if not data:
        raise InputError("empty", "the table is empty")
    refuse_other_formats(data)
    mark, marked = next(((mark, name) for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), (b"", ""))
    stated = "" if options.encoding == "auto" else options.encoding
    if not (marked or stated).startswith("utf-16"):
        _refuse_nul(data, b"\x00")  # before an encoding is looked for: a text of UTF-16 is full of them
    text = _decode(data, stated or marked, mark, marked) if stated or marked else _detect(data)
    _refuse_nul(text, "\x00")
    return text


def _refuse_nul(data: AnyStr, nul: AnyStr) -> None:
    if (at := data.find(nul)) < 0:
        return
    line = len(data[:at].splitlines()) or 1
    raise TableError(
        "bad_table",
        f"line {line} has a NUL: the table is damaged, or UTF-16 without a byte order mark; {_STATE_IT}",
    )


def refuse_other_formats(data: bytes) -> None:
    """Raises InputError (``bad_table``) for the content of a file that is not text."""
    if data.startswith(b"PK\x03\x04"):
        is_workbook = b"[Content_Types].xml" in data[:2000] or b"xl/" in data[:2000]
        what = _WORKBOOK.format(".xlsx") if is_workbook else "a zip archive; unpack it"
        raise TableError("bad_table", f"expected the text of a table, got {what}")
    for magic, what in _OTHER_FORMATS:
        if data.startswith(magic):
            raise TableError("bad_table", f"expected the text of a table, got {what}")


def _decode(data: bytes, encoding: str, mark: bytes, marked: str) -> str:
    if marked and not marked.startswith(encoding):
        raise TableError("bad_table", f"the text begins with the byte order mark of {marked}, but {encoding} is stated")
    codec = marked or ("utf-16-le" if encoding == "utf-16" else encoding)
    try:
        return data[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        raise TableError(
            "bad_table",
            f"the text is not {codec}: byte {at + 1} (line {_line(data, at)}) has no meaning in it; {_STATE_IT}",
        ) from error


def _detect(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        first = error.start
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise _unknown_encoding(data, first) from error
    if _DOUBTFUL.search(text):
        raise _unknown_encoding(data, first)
    return text


def _unknown_encoding(data: bytes, at: int) -> TableError:
    return TableError(
        "bad_table",
        f"the encoding cannot be told from the bytes: it is not UTF-8 (byte {at + 1}, line {_line(data, at)}), "
        f"nor Western European text; {_STATE_IT}",
    )


def _line(data: bytes, at: int) -> int:
    """The line in which a byte lies."""
    return data.count(b"\n", 0, at) + 1
