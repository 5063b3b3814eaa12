"""What a client sent, as a message may repeat it: short, whatever it is.

An answer that repeats all of a request may be longer than the server's largest answer, which ends the worker.
"""

import json
import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

LONGEST_QUOTE = 40
"""Characters of a client's text that a message repeats."""
LONGEST_MESSAGE = 1_000
"""Characters of a message."""
_MOST_NAMES = 5
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def quote(value: Any) -> str:
    """A client's value for a message: one short line that can be written as UTF-8, whatever it is."""
    if isinstance(value, str):
        cut = value[:LONGEST_QUOTE] + "..." if len(value) > LONGEST_QUOTE else value
        return json.dumps(cut.encode("utf-8", "replace").decode(), ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > 1024:
        return "an integer beyond the range of numbers"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = str(value)
    return text[:LONGEST_QUOTE] + "..." if len(text) > LONGEST_QUOTE else text


def quote_names(names: Iterable[str], count: int) -> str:
    """The first of a client's names, and how many there are besides.

    Args:
        names: all of them.
        count: how many they are.
    """
    listed = ", ".join(map(quote, islice(names, _MOST_NAMES)))
    return listed if count <= _MOST_NAMES else f"{listed} and {count - _MOST_NAMES} more"


def one_line(text: str) -> str:
    r"""The text with its control characters, line separators and stray surrogates as JSON's escapes, such as ``\n``."""
    return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text)


def shorten(message: str) -> str:
    """A message of at most :data:`LONGEST_MESSAGE` characters."""
    return message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 3] + "..."
