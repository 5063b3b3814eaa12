"""The tasks: one folder per kind of data, one class per task (:class:`marquee.training.core.task.Task`)."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marquee.training.core.task import Task

DEFAULT_TASK = "image-classification"


@dataclass(frozen=True)
class Registration:
    """Where a task is defined; each is ``MODULE:NAME``, and its module is imported only when needed."""

    config: str
    """Returns its default configuration; a command line needs nothing else of the task."""
    task: str
    """The class of the task."""


_IMAGES = "marquee.training.tasks.image_classification"
_TABLES = "marquee.training.tasks.tabular"
TASKS = {
    "image-classification": Registration(f"{_IMAGES}.config:ImageRunConfig", f"{_IMAGES}.task:ImageClassification"),
    "multi-label-classification": Registration(
        f"{_IMAGES}.config:multi_label_config", f"{_IMAGES}.multi_label:MultiLabelClassification"
    ),
    "tabular-regression": Registration(
        f"{_TABLES}.config:TabularRegressionConfig", f"{_TABLES}.regression:TabularRegression"
    ),
    "tabular-classification": Registration(
        f"{_TABLES}.config:TabularClassificationConfig", f"{_TABLES}.classification:TabularClassification"
    ),
}
"""Name, as in ``--task`` and ``spec.json`` -> registration."""


def default_config(name: Any) -> Any:
    """The default configuration of a task.

    Raises:
        ValueError: there is no such task.
    """
    return _import_name(_registered(name).config)()


def task_named(name: str) -> "Task[Any]":
    """The task of this name.

    Raises:
        ValueError: there is no such task.
    """
    task: Task[Any] = _import_name(_registered(name).task)()
    return task


def _registered(name: Any) -> Registration:
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def _import_name(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
