"""The part of a run's configuration that says what the columns of a table mean; what is not stated is inferred."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

from marquee.handlers.inputs.table.options import Decimal, Encoding, Separator, TextOptions, Thousands
from marquee.handlers.inputs.table.spec import Kind
from marquee.training.core.config import at_least

KINDS = get_args(Kind)
_ROLES = ("target", "group", "time", "features", "ignore")
"""Settings that give a column its role."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The table. A column that no setting names has the role and the kind that its cells suggest."""

    target: str = ""
    """Column that the model predicts."""
    features: tuple[str, ...] = ()
    """Columns that the model gets, and no others; empty: every column that has no other role, but for constants,
    identifiers, and texts with too many distinct values."""
    ignore: tuple[str, ...] = ()
    """Columns that the model does not get."""
    group: str = ""
    """Column that names the group of a row, such as a patient; rows of a group are never in two splits."""
    time: str = ""
    """Column of dates or numbers that orders the rows; the split is then by time: the newest rows are the test rows."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Column and kind, where the inferred one is wrong: number, boolean, category or date (ISO 8601). Such a column is
    not ignored as an identifier."""
    units: dict[str, str] = field(default_factory=dict)
    """Column and unit of its numbers, such as kg; shown, and never computed with."""
    may_be_missing: tuple[str, ...] = ()
    """Columns whose cells may have no value in a request, in addition to those with missing values in the table."""
    encoding: Encoding = "auto"
    """Encoding of CSV files; auto: UTF-8, UTF-16 with a byte order mark, or cp1252 (Western European). This and the
    next three settings are stored with the model, and hold for evaluation and for requests of CSV as well."""
    separator: Separator = "auto"
    """What stands between the cells of CSV files; auto: detected."""
    decimal: Decimal = "auto"
    """Decimal sign of the numbers in CSV files; auto: detected."""
    thousands: Thousands = "auto"
    """What stands between the thousands of the numbers in CSV files; auto: detected."""
    max_categories: int = 100
    """Number of distinct values above which a column of texts is not a category; it is then ignored."""
    max_rows: int = 10_000
    """Rows of one request above which the served model refuses it."""
    max_bytes: int = 6_000_000
    """Size of a request, in bytes, above which the served model refuses it."""

    def __post_init__(self) -> None:
        at_least(self, max_categories=2, max_rows=1, max_bytes=1)
        for column, kind in self.kinds.items():
            if kind not in KINDS:
                raise ValueError(f"kinds: column {column!r}: expected one of {', '.join(KINDS)}, got {kind!r}")
        TextOptions(encoding=self.encoding, separator=self.separator, decimal=self.decimal, thousands=self.thousands)
        for option, column in self.stated():
            if not column.strip():
                raise ValueError(f"{option}: expected the name of a column, got {column!r}")
        self._check_roles()
        if self.target and self.target in self.may_be_missing:
            raise ValueError(
                f"may_be_missing: column {self.target!r} is the target, which is never read from a request"
            )

    @property
    def text(self) -> TextOptions:
        """How the text of a CSV file is to be read."""
        return TextOptions(
            encoding=self.encoding, separator=self.separator, decimal=self.decimal, thousands=self.thousands
        )

    def stated(self) -> Iterator[tuple[str, str]]:
        """Every column that a setting names, with the name of the setting; empty settings are left out."""
        for option in ("target", "group", "time"):
            if getattr(self, option):
                yield option, getattr(self, option)
        for option in ("features", "ignore", "kinds", "units", "may_be_missing"):
            yield from ((option, column) for column in getattr(self, option))

    def _check_roles(self) -> None:
        """A column has one role."""
        roles: dict[str, str] = {}
        for option, column in self.stated():
            if option in _ROLES and roles.setdefault(column, option) != option:
                raise ValueError(
                    f"{option}: column {column!r} is named by {roles[column]}, too, but a column has one role"
                )
