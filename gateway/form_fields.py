"""The body of a request as the fields that TorchServe hands to a handler (seen with 0.12.0), for other hosts."""

import json
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import Repeated

FORM = "application/x-www-form-urlencoded"
_PARTS, _JSON = "multipart/form-data", "application/json"
_MOST_PARTS = 1_000
"""Parts of a form; nobody sends more on purpose."""


def fields_of(body: bytes, content_type: str) -> dict[str, Any]:
    """Field -> value, where JSON is parsed and text decoded; a body that is no form is the field ``body``.

    Args:
        body: of the request.
        content_type: the whole header.

    Raises:
        InputError: the body is not the form that the header promises.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM:
        pairs: list[tuple[str, Any]] = [
            (name, value.encode()) for name, value in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        ]
    elif kind == _PARTS:
        pairs = [(name, _value(content, part_type)) for name, content, part_type in _parts(body, content_type)]
    else:
        pairs = [("body", _value(body, kind))]
    counts: dict[str, int] = {}
    for name, _ in pairs:
        counts[name] = counts.get(name, 0) + 1
    return {name: Repeated(counts[name]) if counts[name] > 1 else value for name, value in pairs}


def _value(content: bytes, kind: str) -> Any:
    try:
        if kind == _JSON:
            return json.loads(content.decode("utf-8"))
        return content.decode("utf-8") if kind.startswith("text") else content
    except (ValueError, RecursionError):
        return content  # as TorchServe does: the handler says what is wrong


def _parts(body: bytes, content_type: str) -> list[tuple[str, bytes, str]]:
    """Name, content and content type of each part."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InputError("bad_request", "the form's Content-Type names no boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InputError("bad_request", f"the form cannot be read: {error}") from error
    return collector.parts


class _Collector:
    """Takes a form's parts from the parser's callbacks."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes, str]] = []
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._content = b"", b"", bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MOST_PARTS:
            raise FormParserError(f"more than {_MOST_PARTS} parts")
        self._headers, self._name, self._value, self._content = {}, b"", b"", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        kind = self._headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        self.parts.append((options.get(b"name", b"").decode("utf-8", "replace"), bytes(self._content), kind))
