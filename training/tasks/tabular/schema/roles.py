"""The role of each column: as it is stated; of the others, what can be learnt from is a feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marquee.handlers.inputs.table.spec import Role
from marquee.training.core.errors import DataError
from marquee.training.tasks.tabular.schema.checks import why_identifier, why_no_category, why_useless
from marquee.training.tasks.tabular.schema.kinds import ColumnValues
from marquee.training.tasks.tabular.schema.notes import Note, option
from marquee.training.tasks.tabular.table_config import TableConfig

_LISTED = 3
"""Ignored columns that a message names."""


@dataclass(frozen=True, kw_only=True)
class RoleFinder:
    """Gives each column of a table its role."""

    config: TableConfig
    origin: str
    """The file, for messages."""
    nameless: frozenset[int]
    """Positions of the columns whose header is empty."""
    known: np.ndarray
    """bool (N,): the rows that have a target."""

    def find(self, columns: Sequence[ColumnValues]) -> tuple[list[Role], list[Note]]:
        """The roles of all columns of the table, and why columns are ignored although no setting says so.

        A column of integers that looks like row numbers is ignored only beside other features: alone, it is what there
        is to predict from.

        Raises:
            DataError: no feature is left, or one that is stated has no values.
        """
        stated = [self._stated(values) for values in columns]
        useless = {i: why for i, role in enumerate(stated) if role is None and (why := self._why_useless(columns[i]))}
        rest = [i for i, role in enumerate(stated) if role is None and i not in useless]
        naming = {i: why for i in rest if (why := self._why_identifier(columns[i], i))}
        notes = {i: Note("warning", columns[i].name, f"ignored: {why}") for i, why in {**useless, **naming}.items()}
        if "feature" not in stated and len(naming) == len(rest):
            for i in [i for i in naming if columns[i].kind == "number"]:
                notes[i] = Note("warning", columns[i].name, f"{naming.pop(i)}; a feature, since there is no other")
        roles = [role or ("ignore" if i in useless or i in naming else "feature") for i, role in enumerate(stated)]
        listed = [notes[i] for i in sorted(notes)]
        if "feature" not in roles:
            raise DataError(f"{self.origin}: no features are left{self._reasons(listed)}")
        return roles, listed

    def _stated(self, values: ColumnValues) -> Role | None:
        """The role by the settings; None where they say nothing of the column."""
        named: dict[str, Role] = {
            **dict.fromkeys(self.config.ignore, "ignore"),
            **dict.fromkeys(self.config.features, "feature"),
            self.config.target: "target",
            self.config.group: "group",
            self.config.time: "time",
        }
        role = named.get(values.name, "ignore" if self.config.features else None)
        if role == "feature" and not (values.present & self.known).any():
            why = why_useless(values, self.known)
            raise DataError(f"{self.origin}: column {values.name!r} {why}; take it out of {option('features')}")
        return role

    def _why_useless(self, values: ColumnValues) -> str | None:
        return why_useless(values, self.known)

    def _why_identifier(self, values: ColumnValues, position: int) -> str | None:
        """Whoever states the kind of a column has looked at it, and wants it."""
        if values.name in self.config.kinds:
            return None
        why = why_identifier(values, self.known, position in self.nameless)
        why = why or why_no_category(values, self.known, self.config)
        if why is None:
            return None
        if values.note:
            why = f"{why}; {values.note.text}"
        return f"{why} (to keep it: {option('kinds', values.name, values.kind)})"

    def _reasons(self, notes: Sequence[Note]) -> str:
        """Why columns are ignored, the first few; else that the settings ignore them."""
        if not notes:
            return f": every column has another role; see {option('features')} and {option('ignore')}"
        more = f"; and {len(notes) - _LISTED} more" if len(notes) > _LISTED else ""
        return f": {'; '.join(map(str, notes[:_LISTED]))}{more}"
