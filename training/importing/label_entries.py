"""The entries of a file of labels, whatever its form, and their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.errors import TrainingError

FORMS = "write one class name per line in the order of the model's outputs, or a JSON list"


@dataclass(frozen=True)
class Entry:
    """One class name of the file."""

    name: str
    """As it is written there."""
    place: str
    """Where it is written, for messages: ``line 3`` or ``entry 3``."""
    index: int | None = None
    """The model's output that it belongs to; None: that of its place in the file."""


def in_order(path: Path, entries: Sequence[Entry]) -> list[Entry]:
    """The entries in the order of the model's outputs.

    Raises:
        TrainingError: an index occurs twice, or one from 0 to the largest is missing.
    """
    numbered: dict[int, Entry] = {}
    for entry in entries:
        if entry.index is None:
            return list(entries)
        if entry.index in numbered:
            first = numbered[entry.index]
            raise TrainingError(
                f"--labels {path}: {entry.place} gives the index {entry.index} to {entry.name!r}, and {first.place} to "
                f"{first.name!r}; each of the model's outputs has one name"
            )
        numbered[entry.index] = entry
    indices = sorted(numbered)
    if indices and indices[0] < 0:
        entry = numbered[indices[0]]
        raise TrainingError(f"--labels {path}: {entry.place} has the index {entry.index}; outputs are counted from 0")
    hole = next((wanted for wanted, index in enumerate(indices) if wanted != index), None)
    if hole is not None:
        after = numbered[indices[hole]]
        hint = "; outputs are counted from 0: subtract 1 from each index, or " if indices[0] == 1 else ": "
        raise TrainingError(
            f"--labels {path}: no entry has the index {hole}, but {after.place} has {after.index} ({after.name!r})"
            f"{hint}name the missing output, or give a JSON list if the numbers are part of the names"
        )
    return [numbered[index] for index in indices]
