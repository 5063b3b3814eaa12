"""The names of columns in a request, compared with the schema's."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches

from .errors import TableError
from .notation import PLAIN, looks_like_a_number
from .spec import TableSpec, folded
from .values import is_missing, quote

_LONGEST_COMPARED, _MOST_COMPARED = 60, 500
"""Letters of a name, and names, that are searched for the nearest one: comparing letter by letter takes long."""
_NEAR = 0.65
"""How alike two names are, of 1, of which one is taken for the other."""
_LISTED = 8
_LOOKED_AT = 8
"""Cells of a first record without numbers that are compared with the names of the columns."""


class Names:
    """Finds the features of a schema among the columns of a request.

    Args:
        spec: the schema.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.features = tuple(column.name for column in spec.features)
        """In the order of the schema."""
        self._all = tuple(column.name for column in spec.columns)
        self._known = frozenset(self._all)
        self._required = tuple(column.name for column in spec.features if not column.may_be_missing)
        self._folded = frozenset(folded(column.name) for column in spec.columns)
        self._has_numbers = any(column.kind == "number" for column in spec.features)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def check(self, names: Collection[str], hint: bool = True) -> None:
        """Finds out whether a table, or a row, has the columns that it must have, and no others.

        Args:
            names: of its columns. Columns of the schema that are no features may be among them.
            hint: whether the message about an unknown name says which one is nearest, which takes time.

        Raises:
            TableError: a name is there twice, is unknown, or a feature that must have a value is absent.
        """
        present = set(names)
        if len(present) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise TableError("bad_table", f"column {quote(twice)} is there twice; send it once")
        for name in names:
            if name not in self._known:
                raise TableError("unknown_column", f"unknown column {quote(name)}" + (self._hint(name) if hint else ""))
        for name in self._required:
            if name not in present:
                raise TableError("missing_column", f"column {name!r} is missing; it must have a value in every row")

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether the first record of a text is a header: each of its cells is the name of a column, and none twice.

        Raises:
            TableError: it is meant as a header, but a name is unknown, spelled in another way, or there twice. Taken
                for a row, it would be a bad one, and the rows below might be read in an order that is not theirs.
        """
        if sum(cell in self._known for cell in cells) * 2 <= len(cells) and not self._is_meant_as_header(cells):
            return False
        self.check(cells)
        return True

    def _is_meant_as_header(self, cells: Sequence[str]) -> bool:
        """Whether most cells are names but for their spelling, or one is and there is no number among the cells."""
        if sum(folded(cell) in self._folded for cell in cells) * 2 > len(cells):
            return True
        if not self._has_numbers or any(looks_like_a_number(cell) or is_missing(cell, PLAIN) for cell in cells):
            return False
        return any(nearest(cell, self._all) is not None for cell in cells[:_LOOKED_AT])

    def _hint(self, name: str) -> str:
        near = nearest(name, self._all)
        if near is not None:
            return f"; did you mean {near!r}?"
        listed = ", ".join(map(repr, self.features[:_LISTED]))
        return f"; the model takes {listed}" + (", ..." if len(self.features) > _LISTED else "")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant; None where none is near."""
    by_folded = {folded(other): other for other in names}
    if (wanted := folded(name)) in by_folded:
        return by_folded[wanted]
    compared = [other for other in by_folded if len(other) <= _LONGEST_COMPARED][:_MOST_COMPARED]
    found = get_close_matches(wanted[:_LONGEST_COMPARED], compared, n=1, cutoff=_NEAR)
    return by_folded[found[0]] if found else None
