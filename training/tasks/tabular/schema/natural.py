"""The order in which people expect names: 2 before 10, and item2 before item10."""

import re
from collections.abc import Iterable
from typing import Any

from marquee.handlers.inputs.table.notation import PLAIN, parse_number

_DIGITS = re.compile(r"([0-9]+)")


def in_natural_order(texts: Iterable[str]) -> list[str]:
    """The texts, as numbers if each of them is one, else with the numbers inside of them compared as numbers."""
    listed = sorted(texts)
    try:
        return sorted(listed, key=lambda text: parse_number(text, PLAIN))
    except ValueError:
        return sorted(listed, key=_parts)


def _parts(text: str) -> list[tuple[Any, ...]]:
    """What is compared in turn; digits by their number, which Python does not read where there are thousands."""
    parts = enumerate(_DIGITS.split(text.casefold()))
    return [(1, len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (0, part) for i, part in parts]
