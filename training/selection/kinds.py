"""The tasks whose candidates can be compared; one line for each."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.training.core.config import RECIPES
from marquee.training.core.errors import TrainingError

if TYPE_CHECKING:
    from marquee.training.selection.selectable import Selectable


@dataclass(frozen=True)
class Registration:
    """What a selection for one task needs."""

    selectable: str
    """``MODULE:CLASS`` of the :class:`marquee.training.selection.selectable.Selectable`, imported only when needed."""
    ladder: str
    """Name of the file in :data:`marquee.training.core.config.RECIPES` with the candidates."""

    @property
    def candidates(self) -> Path:
        """The file with the candidates."""
        return RECIPES / f"{self.ladder}.yaml"


_ROOM = "marquee.training.selection"
SELECTIONS = {
    "image-classification": Registration(f"{_ROOM}.images:ImageSelection", "ladder"),
    "multi-label-classification": Registration(f"{_ROOM}.images:ImageSelection", "ladder"),
    "tabular-regression": Registration(f"{_ROOM}.tables:RegressionSelection", "ladder-tabular"),
    "tabular-classification": Registration(f"{_ROOM}.tables:ClassificationSelection", "ladder-tabular"),
}
"""Task -> registration."""


def registered(task: str) -> Registration:
    """The registration of a task.

    Raises:
        TrainingError: its candidates cannot be compared.
    """
    if task not in SELECTIONS:
        raise TrainingError(
            f"--task {task}: candidates cannot be compared for this task, only for {', '.join(SELECTIONS)}; "
            "use marquee train"
        )
    return SELECTIONS[task]


def selectable_for(task: str) -> "Selectable[Any]":
    """What a selection needs of a task.

    Raises:
        TrainingError: its candidates cannot be compared.
    """
    module, _, name = registered(task).selectable.partition(":")
    selectable: Selectable[Any] = getattr(importlib.import_module(module), name)()
    return selectable
