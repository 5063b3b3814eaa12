"""How a table writes its numbers: decimal sign and thousands separator, found out from all of its columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .cells import Notation
from .errors import TableError
from .options import DECIMALS, THOUSANDS, TextOptions

_STATE_THEM = (
    "state how the table writes decimals and thousands (--table.decimal and --table.thousands where a model is "
    "trained), or write numbers with a decimal point and nothing between thousands"
)

_MOST_BAD = 0.1
"""A column with a larger share of cells that have digits and are not numbers is none of numbers."""
_MOST_WORDS = 3
"""A column of numbers has at most so many different cells without any digit: words for a missing value."""


@dataclass(frozen=True)
class _Example:
    """A cell that shows how numbers are written."""

    text: str
    column: str
    line: int

    def __str__(self) -> str:
        return f"{self.text!r} in column {self.column} (line {self.line})"


_OTHER = {".": ",", ",": "."}
_GROUPS = "[1-9][0-9]{0,2}"
_EXPONENT = "(?:[eE][+-]?[0-9]+)?"


def _either(sign: str) -> str:
    """``1.234``: three digits behind the only sign, and a number in front of it that may be thousands."""
    return rf"{_GROUPS}\{sign}[0-9]{{3}}"


def _grouped(sign: str) -> str:
    """``1.234.567`` or ``1.234,5``: the sign separates thousands."""
    decimals = rf"\{_OTHER[sign]}[0-9]*{_EXPONENT}"
    return rf"{_GROUPS}(?:\{sign}[0-9]{{3}}){{2,}}(?:{decimals})?|{_GROUPS}\{sign}[0-9]{{3}}{decimals}"


def _fraction(sign: str) -> str:
    """``12.5``, ``0.123``, ``1234.567``, ``.5``, ``1,234.5`` or ``1 234.5``: the sign is the decimal sign."""
    thousands = rf"{_GROUPS}(?:[\{_OTHER[sign]}'\u2019 \u00a0\u202f][0-9]{{3}})+"
    plain = rf"(?!{_either(sign)}$)[0-9]*\{sign}[0-9]+{_EXPONENT}"
    return rf"{thousands}\{sign}[0-9]+{_EXPONENT}|{plain}"


def _set_apart(signs: str) -> str:
    """``1'234`` or ``1 234.5``: thousands are separated by a sign that is never a decimal sign."""
    return rf"{_GROUPS}(?:[{signs}][0-9]{{3}})+(?:[.,][0-9]*)?{_EXPONENT}"


_APOSTROPHE = _set_apart("'\u2019")
_SPACE = _set_apart(" \u00a0\u202f")
_MARKS = {"either": _either, "grouped": _grouped, "fraction": _fraction}
_BODIES = {(kind, sign): body(sign) for kind, body in _MARKS.items() for sign in _OTHER} | {
    ("grouped", "'"): _APOSTROPHE,
    ("grouped", " "): _SPACE,
}
_PATTERNS = {key: re.compile(rf"^[+-]?(?:{body})$", re.MULTILINE) for key, body in _BODIES.items()}
_NUMBER = re.compile(rf"[+-]?(?:[0-9]+[.,]?{_EXPONENT}|{'|'.join(_BODIES.values())})")
_DIGIT = re.compile("[0-9]")
_HAS_MARK = re.compile("[0-9][.,'\u2019 \u00a0\u202f][0-9]|^[ \t]*[+-]?[.,][0-9]", re.MULTILINE)
_HAS_MARK_BUT_POINT = re.compile("[0-9][,'\u2019 \u00a0\u202f][0-9]|^[ \t]*[+-]?,[0-9]", re.MULTILINE)


def detect_notation(
    columns: Sequence[Sequence[str]],
    names: Sequence[str] | None,
    lines: Sequence[int],
    separator: str,
    options: TextOptions,
) -> Notation:
    """How the numbers of a table are written, one way for all of its columns.

    ``12,5`` and ``1.234,56`` show a decimal comma, ``12.5``, ``0.123`` and ``1,234,567`` a decimal point. ``1,234``
    shows nothing, and is refused where no other number shows it. A table whose cells commas separate has decimal
    points: there ``"1,234"`` has thousands, and a table of numbers such as ``"12,5"`` is refused. What ``options``
    state is not looked for.

    Raises:
        InputError: ``bad_table``: the numbers do not tell, or are written in two ways.
    """
    by_comma = separator == ","
    if options.decimal != "auto" and options.thousands != "auto":
        return Notation(DECIMALS[options.decimal], THOUSANDS[options.thousands])
    points_mean_nothing = by_comma and options.decimal == options.thousands == "auto"
    seen = _examples(columns, names, lines, _HAS_MARK_BUT_POINT if points_mean_nothing else _HAS_MARK)
    if options.thousands not in ("auto", "point", "comma"):
        _take_for_fractions(seen)
    decimal = DECIMALS.get(options.decimal) or _decimal(seen, by_comma, options)
    if options.thousands != "auto":
        return Notation(decimal, THOUSANDS[options.thousands])
    return Notation(decimal, _thousands(seen, decimal))


def _examples(
    columns: Sequence[Sequence[str]], names: Sequence[str] | None, lines: Sequence[int], mark: re.Pattern[str]
) -> dict[tuple[str, str], _Example]:
    """The first number of each kind in :data:`_PATTERNS`; none of any kind if no cell has a ``mark``."""
    found: dict[tuple[str, str], _Example] = {}
    texts = ["\n".join(cells) for cells in columns]
    if not any(map(mark.search, texts)):
        return found
    for place, (cells, text) in enumerate(zip(columns, texts, strict=True)):
        if not _HAS_MARK.search(text):
            continue
        numbers = "\n".join(_numbers(cells))
        for key, pattern in _PATTERNS.items():
            if key not in found and (match := pattern.search(numbers)):
                row = next(row for row, cell in enumerate(cells) if cell.strip() == match[0])
                found[key] = _Example(match[0], repr(names[place]) if names else str(place + 1), lines[row])
    return found


def _numbers(cells: Sequence[str]) -> list[str]:
    """The different numbers of a column, in any notation; none for a column of dates or texts."""
    different = list(dict.fromkeys(cell.strip() for cell in cells))
    with_digits = [cell for cell in different if _DIGIT.search(cell)]
    if sum(map(bool, different)) - len(with_digits) > _MOST_WORDS:
        return []
    numbers = [cell for cell in with_digits if _NUMBER.fullmatch(cell)]
    return numbers if len(numbers) >= (1 - _MOST_BAD) * len(with_digits) else []


def _take_for_fractions(seen: dict[tuple[str, str], _Example]) -> None:
    """Where neither point nor comma separates thousands, ``1.234`` has a decimal sign."""
    for sign in _OTHER:
        seen.pop(("grouped", sign), None)
        if example := seen.pop(("either", sign), None):
            seen.setdefault(("fraction", sign), example)


def _decimal(seen: dict[tuple[str, str], _Example], by_comma: bool, options: TextOptions) -> str:
    if options.thousands in ("point", "comma"):
        return _OTHER[THOUSANDS[options.thousands]]
    points = seen.get(("fraction", ".")) or seen.get(("grouped", ","))
    commas = seen.get(("fraction", ",")) or seen.get(("grouped", "."))
    if by_comma:
        if not points and (example := seen.get(("fraction", ","))):
            raise TableError(
                "bad_table", f"{example} has a decimal comma in a table that commas separate; {_STATE_THEM}"
            )
        return "."
    if points and commas:
        raise TableError("bad_table", f"numbers are written in two ways: {points}, {commas}; {_STATE_THEM}")
    if not points and not commas and (example := seen.get(("either", ".")) or seen.get(("either", ","))):
        raise TableError("bad_table", _either_way(example))
    return "," if commas else "."


def _either_way(example: _Example) -> str:
    digits = re.sub(r"[.,]", "", example.text)
    return f"{example} may be {digits[:-3]}.{digits[-3:]} or {digits}, and no other number tells which; {_STATE_THEM}"


def _thousands(seen: dict[tuple[str, str], _Example], decimal: str) -> str:
    other = _OTHER[decimal]
    examples = {sign: seen.get(("grouped", sign)) for sign in (other, "'", " ")}
    examples[other] = examples[other] or seen.get(("either", other))
    found = {sign: example for sign, example in examples.items() if example}
    if len(found) > 1:
        ways = ", ".join(map(str, found.values()))
        raise TableError("bad_table", f"thousands are separated in two ways: {ways}; {_STATE_THEM}")
    return next(iter(found), "")
