"""Text -> number. The only place of the project that knows how numbers may be spelled."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .cells import Notation

MAX_CHARACTERS = 400
"""Longest spelling of a number: the largest float64 has 309 digits."""

PLAIN = Notation()

SPACES = " \u00a0\u202f"
"""A space, a no-break space and a narrow one: typed and typeset files differ in them only."""
APOSTROPHES = "'\u2019"

_NOTATIONS = tuple(
    Notation(decimal, thousands) for decimal in ".," for thousands in ("", ".", ",", "'", " ") if thousands != decimal
)
_PLAIN_CHARACTERS = b"0123456789+-.eE \t\n"


def parse_number(text: str, notation: Notation) -> float:
    """The number that ``text`` spells: ``12.5``, ``-3e2``, ``+4``, ``.5``; blanks around it are ignored.

    Thousands are separated all or not at all: under ``,`` both ``1,234,567`` and ``1234567`` are numbers, ``12,34`` and
    ``0,123`` are not.

    Raises:
        ValueError: it is no finite number of this notation; the message says why, in a few words that follow the
            cell's text (``is not a number``).
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has {len(text)} characters, too many for a number")
    if not _pattern(notation).fullmatch(text):
        raise ValueError(_reason(text, notation))
    value = float(_plain(text, notation))
    if value in (float("inf"), float("-inf")):
        raise ValueError("is too large for a number of 64 bits")
    return value


def parse_numbers(cells: Sequence[str], notation: Notation) -> np.ndarray | None:
    """:func:`parse_number` of many cells at once.

    Returns:
        float64 (cells,), or None if any cell is not a finite number of this notation: blank, a word, or too large.
    """
    joined = "\n".join(cells)
    try:
        if notation == PLAIN:
            # Without letters but e, float() reads what the pattern does: no nan, inf, 1_000 or digits of other scripts.
            if joined.encode("utf-8", "replace").translate(None, _PLAIN_CHARACTERS):
                return None
            spelled: Sequence[str] = cells
        else:
            if _not_a_number(notation).search(joined):
                return None
            spelled = _plain(joined, notation).split("\n")
        if len(spelled) != len(cells) or max(map(len, cells), default=0) > MAX_CHARACTERS:
            return None
        values = np.fromiter(map(float, spelled), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def looks_like_a_number(text: str) -> bool:
    """Whether ``text`` is a number under any notation."""
    text = text.strip()
    return any(_pattern(notation).fullmatch(text) for notation in _NOTATIONS)


def _plain(text: str, notation: Notation) -> str:
    """Spelled as :class:`float` reads it, given that it matches the notation."""
    for sign in _alike(notation.thousands):
        text = text.replace(sign, "")
    return text.replace(",", ".") if notation.decimal == "," else text


def _alike(thousands: str) -> str:
    """The signs that are taken for this one."""
    for group in (SPACES, APOSTROPHES):
        if thousands and thousands in group:
            return group
    return thousands


def number_pattern(notation: Notation) -> str:
    """A regular expression for a number without blanks around it."""
    whole = "[0-9]+"
    if notation.thousands:
        whole = f"(?:[1-9][0-9]{{0,2}}(?:[{re.escape(_alike(notation.thousands))}][0-9]{{3}})+|[0-9]+)"
    sign = re.escape(notation.decimal)
    return f"[+-]?(?:{whole}(?:{sign}[0-9]*)?|{sign}[0-9]+)(?:[eE][+-]?[0-9]+)?"


@lru_cache(maxsize=64)
def _pattern(notation: Notation) -> re.Pattern[str]:
    return re.compile(number_pattern(notation))


@lru_cache(maxsize=64)
def _not_a_number(notation: Notation) -> re.Pattern[str]:
    """Finds a line that is not a number."""
    return re.compile(rf"^(?![ \t]*{number_pattern(notation)}[ \t]*$)", re.MULTILINE)


def _reason(text: str, notation: Notation) -> str:
    if not text:
        return "is blank"
    if looks_like_a_number(text):
        written = f"with {notation.decimal!r} as the decimal sign"
        if notation.thousands:
            written += f" and {notation.thousands!r} between thousands"
        return f"is not a number as this table writes them, {written}"
    return "is not a number"
