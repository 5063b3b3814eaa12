"""The good items of a batch as an engine takes them, and the errors of the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .arrays import Arrays, rows
from .errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Items that were decoded together."""

    inputs: Arrays
    """Of the good items, in their order."""
    errors: tuple[InputError | None, ...]
    """One for each item, good or not; None for a good one."""

    def __len__(self) -> int:
        """The number of good items."""
        return rows(self.inputs)

    def with_errors(self, answers: Sequence[T]) -> list[T | InputError]:
        """One answer a good item -> one an item: errors are where their items were."""
        rest = iter(answers)
        return [next(rest) if error is None else error for error in self.errors]
