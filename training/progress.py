"""Progress for people: a bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PLAIN_SECONDS = 15.0
"""Plain logs get at most one line in this time for each task."""


class Task:
    """One counted piece of work."""

    def __init__(self, name: str, total: int, bar: RichProgress | None, quiet: bool) -> None:
        self._name, self._total, self._bar, self._quiet = name, total, bar, quiet
        self._id: TaskID | None = bar.add_task(name, total=total) if bar else None
        self._done = 0
        self._last = time.monotonic()

    def advance(self, note: str = "", count: int = 1) -> None:
        """Counts ``count`` more; ``note`` is shown behind the numbers."""
        self._done += count
        if self._bar is not None and self._id is not None:
            self._bar.update(self._id, advance=count, description=f"{self._name} {note}".rstrip())
        elif not self._quiet and time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            print(f"{self._name}: {self._done}/{self._total} {note}".rstrip(), file=sys.stderr, flush=True)


class Progress:
    """Where progress goes.

    Args:
        quiet: True shows nothing at all (ranks other than 0).
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True)

    def say(self, line: str) -> None:
        """One line for people."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """A task that is shown while the block runs."""
        if self.quiet or not self._console.is_terminal:
            yield Task(name, total, None, self.quiet)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=self._console, transient=True) as bar:
            yield Task(name, total, bar, quiet=False)
