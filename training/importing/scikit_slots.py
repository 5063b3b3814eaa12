"""How a scikit-learn estimator uses the columns of a table, while its conversion walks from step to step.

Between two steps there is a matrix, float64 (N, slots). A slot that still holds the cells of a column of categories has
their codes (:mod:`marquee.handlers.inputs.table.spec`); every other slot has numbers, and NaN is a missing one. Codes
are given out when a step names a category, so that the walk itself finds the categories of each column.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from marquee.handlers.inputs.table.spec import FIRST_CATEGORY
from marquee.training.core.errors import TrainingError


class UnsupportedError(TrainingError):
    """An estimator, or one of its settings, that cannot be imported; the message names its place in the pipeline."""


def refusal(place: str, text: str) -> UnsupportedError:
    """The error for the step at ``place``, such as ``prepare > numbers > PowerTransformer``."""
    return UnsupportedError(f"{place}: {text}")


@dataclass(eq=False)
class Source:
    """One column of the table."""

    name: str
    kind: Literal["unused", "number", "category"] = "unused"
    used_by: str = ""
    """Place of the first step that looks at its cells."""
    categories: list[str] = field(default_factory=list)
    """In the order of their codes."""
    needs_value: str = ""
    """Place of a step that cannot take a missing value; empty where there is none."""
    missing_is_none: bool = False
    """Whether the estimator knows missing values as None; otherwise as NaN."""
    has_booleans: bool = False
    """Whether the estimator was fitted on True and False here; otherwise on numbers."""

    def use_as(self, kind: Literal["number", "category"], place: str) -> None:
        """Notes the kind of the column.

        Raises:
            UnsupportedError: another step uses it as the other kind.
        """
        if self.kind == "unused":
            self.kind, self.used_by = kind, place
        elif self.kind != kind:
            kinds = {"number": "numbers", "category": "categories"}
            other = f"by {self.used_by} as {kinds[self.kind]}"
            raise refusal(
                place, f"column {self.name!r} is used here as {kinds[kind]}, and {other}; a column has one kind"
            )


@dataclass(frozen=True)
class Slot:
    """One column of the matrix between two steps."""

    source: Source | None
    """The column of the table that it comes from; None where it comes from several, or has a value in every row."""
    raw: bool = False
    """Whether it still holds the cells of the column."""
    may_be_missing: bool = False
    """Whether it has no value where the cell of ``source`` has none."""

    @property
    def is_category(self) -> bool:
        """Whether it holds codes."""
        return self.raw and self.source is not None and self.source.kind == "category"

    def number(self, place: str) -> "Slot":
        """The same slot, used as a number.

        Raises:
            UnsupportedError: it holds categories.
        """
        if self.raw and self.source is not None:
            self.source.use_as("number", place)
        return self

    def code(self, text: str, place: str) -> int:
        """The code of a category.

        Raises:
            UnsupportedError: it holds numbers.
        """
        if self.source is None or not self.raw:
            raise refusal(place, f"has the category {text!r} in a column of numbers that an earlier step computed")
        self.source.use_as("category", place)
        if text not in self.source.categories:
            self.source.categories.append(text)
        return FIRST_CATEGORY + self.source.categories.index(text)

    def complete(self, place: str) -> None:
        """Notes that the step at ``place`` needs a value in every row."""
        if self.may_be_missing and self.source is not None and not self.source.needs_value:
            self.source.needs_value = place

    def computed(self) -> "Slot":
        """The slot that a number becomes which is missing where this one is."""
        return replace(self, raw=False)


COMPUTED = Slot(None)
"""A number that is never missing."""


def numbers(slots: Sequence[Slot], place: str) -> list[Slot]:
    """The slots, used as numbers."""
    return [slot.number(place) for slot in slots]


def complete(slots: Sequence[Slot], place: str) -> None:
    """Notes that a step takes numbers that are never missing."""
    for slot in numbers(slots, place):
        slot.complete(place)


def fitted(estimator: Any, name: str, place: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A fitted attribute as float64.

    Args:
        estimator: that has it.
        name: of the attribute.
        place: of the estimator.
        shape: that it must have.

    Raises:
        UnsupportedError: the estimator lacks it, or it is something else.
    """
    if not hasattr(estimator, name):
        raise refusal(place, f"is not fitted: it has no {name}")
    try:
        values = np.array(getattr(estimator, name), np.float64)
    except (TypeError, ValueError) as error:
        raise refusal(place, f"{name} is not an array of numbers") from error
    if shape is not None and values.shape != shape:
        raise refusal(place, f"{name} has the shape {values.shape}, expected {shape}")
    return values


def finite(estimator: Any, name: str, place: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """As :func:`fitted`, with finite numbers only."""
    values = fitted(estimator, name, place, shape)
    if not np.isfinite(values).all():
        raise refusal(place, f"{name} has numbers that are not finite")
    return values
