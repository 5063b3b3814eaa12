"""Image files that clients send as text: base64 in the ways in which it is written.

Standard or URL-safe letters, with or without padding, in lines, as a data URL.
"""

import base64
import binascii
import json
import re
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from ...core.errors import InputError
from ...core.quoting import quote
from .containers import foreign, format_of

_DATA_URL = re.compile(r"data:([^,]{0,500}),", re.IGNORECASE)
_REPR = re.compile(r"(?:bytearray\()?[bB][\"']")
_BEFORE = re.compile(rb'(?:\xef\xbb\xbf)?(?:[\s"]|\\[nrt])*')
"""What may stand before the first letter: a byte order mark, blanks, the quotation mark of a JSON text."""
_LETTERS = re.compile(rb"[A-Za-z0-9+/_ \r\n-]+")
_STRANGER = re.compile(r"[^A-Za-z0-9+/=]")
_URL_SAFE = str.maketrans("-_", "+/")
_TO_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
_BOM = "\ufeff"
_HEAD = 128
"""Bytes at the beginning of a body that show whether it may be text."""


def decode_base64(text: Any, name: str) -> bytes:
    """A text from JSON -> the content of the file.

    Args:
        text: what should be base64.
        name: where it stands, for messages.

    Raises:
        InputError: ``bad_request``: it is no base64; the message says what it looks like instead.
    """
    if not isinstance(text, str):
        raise InputError("bad_request", f"{name}: expected base64 as text, got {quote(text)}")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return _decode(text, name)


def file_of_text(data: bytes | bytearray) -> bytes | None:
    """The content of the file where a body is its base64 as text; None where it is no such text.

    Raises:
        InputError: ``bad_request``: the body is such a text, but cannot be decoded.
    """
    if format_of(data) is not None:
        return None
    head = _BEFORE.sub(b"", bytes(data[:_HEAD]), count=1)
    start = head.decode("ascii", "replace")
    if not (_REPR.match(start) or start[:5].lower() == "data:" or _begins_a_file(head)):
        return None
    return decode_base64(_unquoted(data.decode("utf-8", "replace")), "the body")


def _begins_a_file(head: bytes) -> bool:
    """Whether the first letters of a text are base64 of what an image, or another file, begins with.

    Many texts that are not meant so, such as a single word, can be read as base64.
    """
    match = _LETTERS.match(head)
    # A space may have been a plus sign: the text is meant so, and the message about spaces says what is wrong with it.
    letters = b"".join(match[0].splitlines()).translate(_TO_STANDARD) if match else b""
    content = base64.b64decode(letters[: len(letters) // 4 * 4])
    return format_of(content) is not None or foreign(content) is not None


def _unquoted(text: str) -> str:
    """The text itself where it is sent as JSON."""
    text = text.removeprefix(_BOM).strip()
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            pass  # what is wrong with it, the decoder says
    return text


def _decode(text: str, name: str) -> bytes:
    text = text.strip()
    if _REPR.match(text):
        raise InputError(
            "bad_request",
            f"{name}: this is how Python shows bytes (b'...'), not base64 as text; "
            "send base64.b64encode(data).decode() in place of str(...)",
        )
    if text[:5].lower() == "data:":
        text = _content_of_url(text, name)
    # Lines may be indented; a space within a line is another matter.
    lines = "".join(line.strip() for line in text.splitlines()).translate(_URL_SAFE)
    letters = lines.rstrip("=")
    if (stranger := _STRANGER.search(letters)) is not None or "=" in letters:
        _refuse(letters, letters.index("=") if stranger is None else stranger.start(), name)
    if len(letters) % 4 == 1:
        raise InputError("bad_request", f"{name}: not valid base64: it has {len(letters)} letters; is it cut off?")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        raise InputError("bad_request", f"{name}: not valid base64: {error}") from error


def _content_of_url(url: str, name: str) -> str:
    match = _DATA_URL.match(url)
    if match is None:
        raise InputError("bad_request", f"{name}: a data URL without a comma; expected data:image/png;base64,...")
    if not match[1].rstrip().lower().endswith(";base64"):
        kind = quote(match[1])
        raise InputError("bad_request", f"{name}: a data URL that is not base64 ({kind}); expected data:...;base64,...")
    content = url[match.end() :]
    return unquote_to_bytes(content).decode("ascii", "replace") if "%" in content else content


def _refuse(letters: str, place: int, name: str) -> NoReturn:
    letter = letters[place]
    if letter == " ":
        raise InputError(
            "bad_request",
            f"{name}: not valid base64: it contains spaces, which + becomes in a form that is not percent-encoded",
        )
    raise InputError("bad_request", f"{name}: not valid base64: {quote(letter)} at letter {place + 1}")
