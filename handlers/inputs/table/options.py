"""How the text of a table is written, where a caller knows it; everything else is detected."""

from dataclasses import dataclass
from typing import Literal, get_args

Encoding = Literal["auto", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]
Separator = Literal["auto", "comma", "semicolon", "tab", "pipe"]
Decimal = Literal["auto", "point", "comma"]
Thousands = Literal["auto", "none", "point", "comma", "apostrophe", "space"]

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""What separates the cells of a row, by its name in :class:`TextOptions`."""
DECIMALS = {"point": ".", "comma": ","}
"""Decimal signs by their names in :class:`TextOptions`."""
THOUSANDS = {"none": "", "point": ".", "comma": ",", "apostrophe": "'", "space": " "}
"""What stands between thousands, by its name in :class:`TextOptions`; ``space`` stands for no-break spaces as well."""


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How the text of a table is written; ``auto`` is found out from the text, or refused where it does not tell."""

    encoding: Encoding = "auto"
    """The text's encoding; ``auto``: UTF-8, UTF-16 with a byte order mark, or cp1252 (Western European)."""
    separator: Separator = "auto"
    """What separates the cells of a row."""
    decimal: Decimal = "auto"
    """The decimal sign of numbers."""
    thousands: Thousands = "auto"
    """What separates the thousands of numbers."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("encoding", Encoding),
            ("separator", Separator),
            ("decimal", Decimal),
            ("thousands", Thousands),
        ):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(choices))}, got {value!r}")
        if self.decimal != "auto" and self.decimal == self.thousands:
            raise ValueError(f"thousands: expected another sign than the decimal sign, got {self.thousands!r} for both")
