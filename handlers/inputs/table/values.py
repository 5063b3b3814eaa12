"""What a single cell of a table means: a missing value, a boolean, a date or the text of a category.

The one definition for training, for the inference of a schema and for requests. Numbers in text are in ``notation.py``.
"""

import math
import re
from datetime import date, datetime, time, timedelta
from typing import Any

from ...core.quoting import quote as quote  # for the other files of this package, too
from .cells import Notation

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""Texts that mean a missing value where all cells are text (CSV), in any case and without blanks around them."""

_TRUE = frozenset({"true", "yes", "1", "1.0"})
_FALSE = frozenset({"false", "no", "0", "0.0"})
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?"
    r"(?:Z|([+-])(\d\d):?(\d\d)?)?)?",
    re.ASCII,
)
_DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{0,99})?|\.[0-9]{1,99})", re.ASCII)
"""A number of digits with at most one point, of a length whose float64 is finite."""
_EPOCH = date(1970, 1, 1).toordinal()
_MICROSECONDS = 86_400_000_000
"""Of a day."""
_FIRST = (date.min.toordinal() - _EPOCH) * _MICROSECONDS
_LAST = (date.max.toordinal() - _EPOCH + 1) * _MICROSECONDS - 1
"""The first and the last microsecond in UTC that the calendar has, the years 1 to 9999."""
_FURTHEST = (23 * 60 + 59) * 60_000_000
"""The largest offset from UTC, in microseconds."""


def is_missing(cell: Any, notation: Notation | None) -> bool:
    """Whether a cell has no value.

    Args:
        cell: as :class:`~.cells.RawTable` holds it.
        notation: of the table. None: only None is a missing value, and NaN is an error.
    """
    if cell is None:
        return True
    return notation is not None and isinstance(cell, str) and cell.strip().casefold() in MISSING_WORDS


def parse_boolean(cell: Any, notation: Notation | None) -> bool:
    """True or False.

    Args:
        cell: with a notation ``true``, ``false``, ``yes``, ``no``, ``1`` or ``0`` in any case; without one a bool, or
            the number 0 or 1.
        notation: of the table.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(cell, str) and notation is not None:
        word = cell.strip().casefold()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    elif isinstance(cell, (bool, int, float)) and cell in (0, 1):
        return bool(cell)
    expected = "true or false" if notation is None else "true, false, yes, no, 1 or 0"
    raise ValueError(f"expected {expected}, got {quote(cell)}")


def parse_date(cell: Any) -> float:
    """Days since 1970-01-01T00:00Z.

    Args:
        cell: a date or datetime, or a text in ISO 8601 with hyphens: ``2024-02-29``, ``2024-02-29T12:30``,
            ``2024-02-29 12:30:15.25Z``, ``2024-02-29T12:30:15+02:00``. Without an offset it is in UTC. Fractions of a
            second count down to microseconds.

    Raises:
        ValueError: it is something else, or no such day or time exists.
    """
    if isinstance(cell, str):
        return _parse_date_text(cell)
    if isinstance(cell, datetime):
        offset = cell.utcoffset() or timedelta()
        return _days(cell.date(), cell.time(), offset)
    if isinstance(cell, date):
        return float(cell.toordinal() - _EPOCH)
    raise ValueError(f"expected a date such as 2024-02-29 or 2024-02-29T12:30:00Z, got {quote(cell)}")


def _parse_date_text(text: str) -> float:
    match = _DATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a date such as 2024-02-29 or 2024-02-29T12:30:00Z, got {quote(text)}")
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
    try:
        on = date(int(year), int(month), int(day))
        if hour is None:
            return float(on.toordinal() - _EPOCH)
        at = time(int(hour), int(minute), int(second or 0), int((fraction or "0")[:6].ljust(6, "0")))
        offset = time(int(hours or 0), int(minutes or 0))
    except ValueError as error:
        raise ValueError(f"no such date: {quote(text)} ({error})") from error
    east = timedelta(hours=offset.hour, minutes=offset.minute)
    return _days(on, at, -east if sign == "-" else east)


def _days(on: date, at: time, offset: timedelta) -> float:
    """One correctly rounded division, so that a text and a datetime of the same moment have the same bits."""
    seconds = at.hour * 3600 + at.minute * 60 + at.second - offset.days * 86_400 - offset.seconds
    microseconds = seconds * 1_000_000 + at.microsecond - offset.microseconds
    return ((on.toordinal() - _EPOCH) * _MICROSECONDS + microseconds) / _MICROSECONDS


def date_text(days: float) -> str:
    """Days since 1970-01-01T00:00Z in ISO 8601: the one text of a date, for people and for files.

    It is in UTC, a date where the days are whole, and of days that :func:`parse_date` gave it reads the text as the
    same float64. A moment that is in the year 10000 or 0 in UTC, as the last evening of 9999 west of Greenwich is, has
    the largest offset instead. Days that no date can be are written as a number.

    Args:
        days: finite.
    """
    moment = _microseconds(days)
    if _FIRST <= moment <= _LAST:
        return f"{_iso(moment)}Z" if moment % _MICROSECONDS else _iso(moment)[:10]
    # A float64 of so many days may lie some microseconds beyond the moment that it is rounded from.
    if moment > 0:
        text = f"{_iso(min(moment - _FURTHEST, _LAST))}-23:59"
    else:
        text = f"{_iso(max(moment + _FURTHEST, _FIRST))}+23:59"
    return text if _parse_date_text(text) == days else f"{days:g} days after 1970-01-01"


def _microseconds(days: float) -> int:
    """Since 1970-01-01T00:00Z: whole seconds if these days are the float64 of such, and the nearest ones else."""
    numerator, denominator = days.as_integer_ratio()
    for unit in (1_000_000, 1_000, 1):
        # Integers are exact, unlike a product of floats.
        count = (2 * numerator * _MICROSECONDS + denominator * unit) // (2 * denominator * unit)
        if abs(count) < 2**63 and count * unit / _MICROSECONDS == days:
            break
    return count * unit


def _iso(moment: int) -> str:
    """Microseconds since 1970-01-01T00:00Z as a date and time without an offset."""
    day, microseconds = divmod(moment, _MICROSECONDS)
    midnight = datetime.combine(date.fromordinal(day + _EPOCH), time())
    return (midnight + timedelta(microseconds=microseconds)).isoformat()


def category_text(cell: Any) -> str:
    """The text by which a category is known, the same for every spelling of a value and in every form of a table.

    Args:
        cell: a bool (``true``, ``false``); a number (``3``, ``2.5``; ``3.0`` is ``3``); a date or datetime (ISO 8601);
            or a text, which loses the blanks around it. A text that is a number of digits with at most one point is
            that number, and ``True`` is ``true``, since a cell of a CSV file does not tell which it is. Codes such as
            ``007``, ``+3``, ``1E5`` and ``2,5`` stay as they are.

    Raises:
        ValueError: it is none of these, or not finite.
    """
    if isinstance(cell, str):
        return _category_of_text(cell.strip())
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return _number_text(cell)
    if isinstance(cell, float) and math.isfinite(cell):
        return _number_text(int(cell)) if cell.is_integer() else repr(cell)
    if isinstance(cell, (date, datetime)):
        return cell.isoformat()
    raise ValueError(f"expected a text, got {quote(cell)}")


def _category_of_text(text: str) -> str:
    if _DECIMAL.fullmatch(text):
        return category_text(float(text)) if "." in text or text == "-0" else text
    word = text.casefold() if len(text) <= 5 else ""
    return word if word in ("true", "false") else text


def _number_text(number: int) -> str:
    # Parsers of JSON disagree about integers outside of 64 bits: to some they are floats.
    if -(2**63) <= number < 2**64:
        return str(number)
    try:
        return repr(float(number))
    except OverflowError:
        raise ValueError(f"expected a text, got {quote(number)}") from None
