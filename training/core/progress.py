"""Progress display: a bar on a terminal, plain lines elsewhere and without rich. Everything goes to stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_PLAIN_SECONDS = 15.0
"""Smallest interval between two plain lines of a task."""


class Task:
    """A piece of work with ``total`` units, of which ``done`` were completed before."""

    def __init__(self, name: str, total: int, bar: "Bar | None", quiet: bool, done: int = 0) -> None:
        self._name, self._total, self._bar, self._quiet = name, total, bar, quiet
        self._id: TaskID | None = bar.add_task(name, total=total, completed=done) if bar else None
        self._done = self._begun = done
        self._last = self._started = time.monotonic()

    def advance(self, note: str = "", count: int = 1) -> None:
        """Adds ``count`` completed units; ``note`` is displayed next to the numbers."""
        self._done += count
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, advance=count, description=f"{self._name} {note}".rstrip())
        elif not self._quiet and time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            left = (self._last - self._started) / max(1, self._done - self._begun) * (self._total - self._done)
            line = f"{self._name}: {self._done}/{self._total} {note}".rstrip()
            print(f"{line}, {_duration(left)} left", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Rounded for display: ``40 s``, ``12 min``, ``2 h 5 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Reports the progress of tasks.

    Args:
        quiet: display nothing (ranks other than 0).
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        """A task that is displayed while the block runs; ``done`` of its units were completed before."""
        bar = None if self.quiet else _bar()
        if bar is None:
            yield Task(name, total, None, self.quiet, done)
            return
        with bar:
            yield Task(name, total, bar, quiet=False, done=done)


def _bar() -> "Bar | None":
    """A bar on stderr; None where that is no terminal, or rich is absent."""
    if find_spec("rich") is None:
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, console=console, transient=True)
