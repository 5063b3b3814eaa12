"""What people are told about the columns of a table, and how settings are named in messages."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_SHORT = {"target": "--target"}
"""Settings that have a short form on a command line."""


@dataclass(frozen=True)
class Note:
    """Something that people should know of a column before they train on it."""

    level: Literal["info", "warning"]
    column: str
    """Name of the column; empty: the whole table."""
    text: str

    def __str__(self) -> str:
        return f"column {self.column!r}: {self.text}" if self.column else self.text


def option(setting: str, *values: str) -> str:
    """A setting as it is written in a shell, such as ``--table.kinds zip category``.

    Args:
        setting: a field of ``TableConfig``.
        values: what follows it; quoted where a shell needs it, and escaped where a terminal would obey it.
    """
    flag = _SHORT.get(setting, f"--table.{setting.replace('_', '-')}")
    return " ".join([flag, *(shlex.quote(value) if value.isprintable() else repr(value) for value in values)])


def first_line(rows: np.ndarray, lines: Sequence[Any]) -> int:
    """The line of the first of some rows.

    Args:
        rows: bool (N,), with at least one that is True.
        lines: of all rows.
    """
    return int(lines[int(np.argmax(rows))])
