"""Which character separates the cells of a text, found out from its first rows."""

from collections import Counter
from collections.abc import Iterable, Sequence

from .errors import TableError
from .notation import looks_like_a_number
from .options import SEPARATORS
from .records import read_records

_SAMPLE = 65_536
"""Characters that are looked at."""
_RECORDS = 200
"""Records that are looked at."""
_LEAST = 0.5
"""Share of regular rows that a separator gives at least."""
_CLOSE = 0.1
"""Shares of regular rows that differ by less do not tell two separators apart."""


def stated_inside(text: str) -> tuple[str | None, str]:
    """The separator that a first line ``sep=;`` states, as Excel writes and reads it.

    Returns:
        The separator, or None without such a line; and the text with that line emptied, so that lines keep their
        numbers.

    Raises:
        InputError: ``bad_table``: the line states another character than the four that are read.
    """
    if text[:4].lower() != "sep=" or text[5:6] not in ("\r", "\n", ""):
        return None, text
    if text[4:5] not in SEPARATORS.values():
        raise TableError("bad_table", f"line 1 states the separator {text[4:5]!r}; expected one of {_names()}")
    return text[4], text[5:]


def detect_separator(text: str) -> str:
    """The one of comma, semicolon, tab and pipe that gives the rows as many cells as the first record.

    A text without any of them has one column; its separator is a comma.

    Raises:
        InputError: ``bad_table``: two of them do.
    """
    samples = _samples(text)
    regular = _regular({separator: _share(rows, len(rows[0])) for separator, rows in samples.items()})
    if not regular:  # a title above the table, or a first record with an error
        regular = _regular({separator: _share_of_most(rows) for separator, rows in samples.items()})
    return _choose(regular, samples) if regular else ","


def _samples(text: str) -> dict[str, list[list[str]]]:
    """The first records as each separator that occurs in them gives them."""
    sample = text[:_SAMPLE]
    if len(text) > _SAMPLE and (end := max(sample.rfind("\n"), sample.rfind("\r"))) > 0:
        sample = sample[: end + 1]
    read = {sign: read_records(sample, sign, _RECORDS).cells for sign in SEPARATORS.values() if sign in sample}
    return {separator: rows for separator, rows in read.items() if rows}


def _regular(shares: dict[str, float]) -> dict[str, float]:
    return {separator: share for separator, share in shares.items() if share >= _LEAST}


def _share(rows: Sequence[Sequence[str]], cells: int) -> float:
    """The share of rows with so many cells, if these are more than one."""
    return sum(len(row) == cells for row in rows) / len(rows) if cells > 1 else 0.0


def _share_of_most(rows: Sequence[Sequence[str]]) -> float:
    """The share of rows with as many cells as most rows have, if these are more than one."""
    [(most, _)] = Counter(map(len, rows)).most_common(1)
    return _share(rows, most)


def _choose(regular: dict[str, float], samples: dict[str, list[list[str]]]) -> str:
    best = max(regular.values())
    close = [separator for separator, share in regular.items() if share > best - _CLOSE]
    others = [separator for separator in close if separator != ","]
    if len(others) < len(close) and len(others) == 1:
        [other] = others
        if _are_decimal_signs(cell for row in samples[other] for cell in row):
            return other
    winners = [separator for separator in close if regular[separator] == best]
    if len(winners) > 1:
        names = " and ".join(name for name, sign in SEPARATORS.items() if sign in winners)
        raise TableError(
            "bad_table",
            f"{names} separate the text equally well; quote the cells that have one of them inside, or state the "
            "separator (--table.separator where a model is trained)",
        )
    return winners[0]


def _are_decimal_signs(cells: Iterable[str]) -> bool:
    """Whether the commas are inside of numbers only."""
    with_commas = [cell for cell in cells if "," in cell]
    return bool(with_commas) and all(map(looks_like_a_number, with_commas))


def _names() -> str:
    return ", ".join(f"{name} ({sign!r})" for name, sign in SEPARATORS.items())
