"""The names of a table's columns: every column gets one, and none is there twice."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from marquee.handlers.inputs.table.cells import RawTable
from marquee.handlers.inputs.table.names import nearest
from marquee.training.core.errors import DataError
from marquee.training.tasks.tabular.schema.notes import option
from marquee.training.tasks.tabular.table_config import TableConfig

_INDEX_NAME = re.compile(r"Unnamed: ?\d+|\.\.\.\d+")
"""What pandas and readr call a column whose header is empty."""
_SHOWN = 10
"""Names that a message lists."""


def named(table: RawTable) -> RawTable:
    """The table with a name for each column: ``column 3`` for the third if its header is empty, or if there is none.

    The schema has these names, so it is this table that is decoded with it.
    """
    given = table.names or ("",) * len(table.columns)
    taken = set(given)
    names = []
    for number, name in enumerate(given, start=1):
        names.append(name if name.strip() else _free(f"column {number}", taken))
    return replace(table, names=tuple(names))


def _free(name: str, taken: set[str]) -> str:
    """``name``, or ``name`` with as many apostrophes as it takes to be unlike the others."""
    while name in taken:
        name += "'"
    return name


def nameless(table: RawTable) -> frozenset[int]:
    """Positions of the columns whose header is empty or a stand-in for an empty one; none in a table without a header.

    Args:
        table: as it was read, before :func:`named`.
    """
    names = table.names or ()
    return frozenset(i for i, name in enumerate(names) if not name.strip() or _INDEX_NAME.fullmatch(name))


def check_names(names: Iterable[str], origin: str) -> None:
    """Raises DataError if a name is there twice.

    Args:
        names: from :func:`named`.
        origin: the file, for the message.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        more = f", and so are {len(twice) - 1} others" if len(twice) > 1 else ""
        raise DataError(f"{origin}: column {twice[0]!r} is there more than once{more}; give each a name of its own")


def check_stated(names: tuple[str, ...], config: TableConfig, origin: str) -> None:
    """Raises DataError if there is no target, or if a setting names a column that the table has not.

    Args:
        names: of the table's columns.
        config: the settings.
        origin: the file, for the message.
    """
    listed = ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN:,} more" * (len(names) > _SHOWN))
    if not config.target:
        raise DataError(f"{origin}: no target; name the column to predict with {option('target', 'COLUMN')} ({listed})")
    known = frozenset(names)
    for setting, column in config.stated():
        if column not in known:
            near = nearest(column, names)
            hint = f"did you mean {near!r}?" if near else f"the columns are {listed}"
            raise DataError(f"{origin}: {option(setting)}: there is no column {column!r}; {hint}")
