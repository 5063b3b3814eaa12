"""The columns of a table and how their cells become the arrays that an engine takes: that part of ``spec.json``."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...core.input import Input, InputSpec
from ...core.oip.metadata import TensorSpec
from ...core.schema import to_dict
from .options import TextOptions
from .values import date_text

if TYPE_CHECKING:  # a command line reads specs without numpy
    from ...core.arrays import Arrays
    from ...core.spec import ModelSpec

NUMBERS = "numbers"
"""Name of an engine's array: float64 (N, numeric features); NaN is a missing value."""
CODES = "codes"
"""Name of an engine's array: int64 (N, categorical features)."""
MISSING, UNSEEN, FIRST_CATEGORY = 0, 1, 2
"""Codes of a categorical cell without a value, of a category that training did not see, and of the first category."""

Kind = Literal["number", "boolean", "category", "date"]
Role = Literal["feature", "target", "group", "time", "ignore"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table that a model was trained on."""

    name: str
    kind: Kind
    """``number``; ``boolean``: 0 or 1; ``date``: an ISO 8601 date or date and time, as days since 1970-01-01T00:00Z;
    ``category``: a text out of ``categories``."""
    role: Role = "feature"
    """Only features are read from a request; values of the other columns may be sent, and are not looked at."""
    unit: str = ""
    """Unit of the numbers, for people."""
    may_be_missing: bool = False
    """Whether a cell may have no value. A feature that has one in every training row must have one in
    every request."""
    low: float | None = None
    """Smallest number that training saw; None for categories and booleans."""
    high: float | None = None
    """Largest number that training saw."""
    categories: tuple[str, ...] = ()
    """Categories that training saw, in the order of their codes from :data:`FIRST_CATEGORY`."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name: expected a text that is not blank")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"categories: column {self.name!r} has a category twice")
        if self.kind == "category" and self.role == "feature" and not self.categories:
            raise ValueError(f"categories: column {self.name!r} has none")
        if (self.low is None) != (self.high is None):
            raise ValueError(f"low, high: column {self.name!r} has one of them without the other")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: column {self.name!r}: expected at most high ({self.high}), got {self.low}")


@dataclass(frozen=True, kw_only=True)
class TableSpec(InputSpec):
    """The columns of a table, and how much of one a request may hold."""

    chunk: ClassVar[int] = 4096

    kind: Literal["table"] = "table"
    columns: tuple[Column, ...]
    """In the order of the table; rows without names have the features' cells in this order."""
    max_rows: int = 10_000
    """Rows of one request; more are refused."""
    max_bytes: int = 6_000_000
    """Size of a request above which it is refused."""
    text: TextOptions = field(default_factory=TextOptions)
    """How the text of tables is written, as far as whoever trained the model stated it; requests of CSV are read so."""

    def __post_init__(self) -> None:
        if twice := [name for name, count in Counter(column.name for column in self.columns).items() if count > 1]:
            raise ValueError(f"columns: {twice[0]!r} is there twice")
        if not self.features:
            raise ValueError("columns: expected at least one feature")
        for name in ("max_rows", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns that decide an answer, in the order of the table."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def target(self) -> Column:
        """The column that the model predicts.

        Raises:
            ValueError: none of the columns has that role.
        """
        for column in self.columns:
            if column.role == "target":
                return column
        raise ValueError("columns: none of them is the target")

    @cached_property
    def numeric(self) -> tuple[Column, ...]:
        """The features in :data:`NUMBERS`, in the order of its columns: numbers, booleans and dates."""
        return tuple(column for column in self.features if column.kind != "category")

    @cached_property
    def categorical(self) -> tuple[Column, ...]:
        """The features in :data:`CODES`, in the order of its columns."""
        return tuple(column for column in self.features if column.kind == "category")

    def create(self, threads: int = 1) -> Input:
        """See :class:`marquee.handlers.core.input.InputSpec`; rows are decoded in the caller's thread."""
        from .reader import TableReader  # numpy, which whoever only reads a spec does not need

        return TableReader(self)

    def example(self, items: int) -> "Arrays":
        """Rows from the middle of what training saw; an array without columns is left out."""
        import numpy as np

        arrays = {}
        if self.numeric:
            middle = [0.0 if c.low is None or c.high is None else c.low / 2 + c.high / 2 for c in self.numeric]
            arrays[NUMBERS] = np.tile(np.array(middle, np.float64), (items, 1))
        if self.categorical:
            arrays[CODES] = np.full((items, len(self.categorical)), FIRST_CATEGORY, np.int64)
        return arrays

    def describe(self) -> dict[str, Any]:
        """The columns that a client sends, the limits, and how the text of a table is written where that was stated."""
        return {
            "columns": [_describe(column) for column in self.features],
            "max_rows": self.max_rows,
            "max_bytes": self.max_bytes,
            **({} if self.text == TextOptions() else {"text": to_dict(self.text)}),
        }

    def tensors(self) -> Sequence[TensorSpec]:
        """One for each feature."""
        return [TensorSpec(name=column.name, datatype=_datatype(column)) for column in self.features]


def _datatype(column: Column) -> str:
    """The datatype of the Open Inference Protocol that holds all that a column may be."""
    if column.kind == "boolean":
        return "FP64" if column.may_be_missing else "BOOL"  # NaN is a missing value
    return "FP64" if column.kind == "number" else "BYTES"


def _describe(column: Column) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": column.name, "kind": column.kind, "may_be_missing": column.may_be_missing}
    if column.unit:
        facts["unit"] = column.unit
    if column.low is not None and column.high is not None:
        low, high = column.low, column.high
        is_date = column.kind == "date"
        facts |= {"low": date_text(low), "high": date_text(high)} if is_date else {"low": low, "high": high}
    if column.categories:
        facts["categories"] = list(column.categories)
    return facts


def folded(name: str) -> str:
    """A column's name as names are compared for typing errors: without case, spaces and underscores."""
    return re.sub(r"[\s_]+", "", name).casefold()


def table_of(spec: "ModelSpec") -> TableSpec:
    """The input of a model that takes rows of a table.

    Raises:
        TypeError: it takes something else.
    """
    if not isinstance(spec.input, TableSpec):
        raise TypeError(f"expected a model of tables, got one of kind {spec.input.kind!r}")
    return spec.input


SPEC = TableSpec
