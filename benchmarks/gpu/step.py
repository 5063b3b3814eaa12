"""What a step of the GPU pack is, where it runs, and how it tells what it found. Nothing but the standard library."""

import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Read when cuBLAS is first used in a process; deterministic algorithms want it set."""
Row = dict[str, Any]
"""``name``, ``value`` (number, text or None), ``unit``, ``right`` (None: nothing to be right or wrong), ``wanted``,
``note``; ``kind`` is ``"row"``, ``"error"`` or ``"skipped"``."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the pack."""

    name: str
    title: str
    module: str
    """Offers ``run(site, report)``; imported in the step's own process alone."""
    packages: tuple[str, ...] = ()
    """Import names beyond the pack's own; the step is skipped where one is absent."""
    weight: float = 1.0
    """Its share of the minutes."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a step runs."""

    device: str
    """``"cuda"`` or ``"cpu"``."""
    work: Path
    """An empty folder of this step's own."""
    shared: Path
    """A folder for what several steps use: made once, see :mod:`benchmarks.gpu.material`."""
    seconds: float
    """The step's time limit."""

    @property
    def full(self) -> bool:
        """Whether sizes are those for a GPU; on the CPU everything is small."""
        return self.device != "cpu"

    @property
    def rows(self) -> Path:
        """The file of the step's rows, which :class:`Report` writes."""
        return self.work.with_name(f"{self.work.name}.jsonl")

    def to_json(self) -> str:
        """For the command line of the step's process."""
        return json.dumps(
            {"device": self.device, "work": str(self.work), "shared": str(self.shared), "seconds": self.seconds}
        )

    @classmethod
    def from_json(cls, text: str) -> "Site":
        """The inverse of :meth:`to_json`."""
        fields = json.loads(text)
        return cls(
            device=fields["device"], work=Path(fields["work"]), shared=Path(fields["shared"]), seconds=fields["seconds"]
        )


def environment(**values: str) -> dict[str, str]:
    """The environment of a child process that imports ``benchmarks`` and ``marquee``, with ``values`` added."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        # From the start, since a step uses cuBLAS before it asks for deterministic algorithms.
        CUBLAS_WORKSPACE: os.environ.get(CUBLAS_WORKSPACE, ":4096:8"),
        **values,
    }


class Report:
    """The rows of a step, each written to a file of JSON lines at once, so that a killed step leaves its rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def row(
        self,
        name: str,
        value: float | str | None = None,
        unit: str = "",
        *,
        right: bool | None = None,
        wanted: str = "",
        note: str = "",
    ) -> None:
        """Adds what was measured or found.

        Args:
            name: What it is; unique within the step.
            value: A number in ``unit``, or a short text.
            unit: ``images/s``, ``GB``, ``ms``, ``TFLOP/s``, ``%``, ...
            right: Whether it is as wanted; None where it is a mere figure.
            wanted: What would be right, for people: ``"within 1 point of the CPU"``.
            note: Anything that helps to read the row.
        """
        self._append(new_row("row", name, value, unit, right, wanted, note))

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Turns an exception of the block into the row ``name`` and goes on; its traceback goes to the step's log."""
        try:
            yield
        except (Exception, SystemExit) as error:
            traceback.print_exc(file=sys.stderr)
            self.error(name, error)

    def error(self, name: str, error: BaseException) -> None:
        """Adds a row for what failed: the error's type and its first line."""
        lines = str(error).strip().splitlines()
        self._append(error_row(name, ": ".join([type(error).__name__, *lines[:1]])))

    def skip(self, name: str, reason: str) -> None:
        """Adds a row for what is not measured here, and why."""
        self._append(new_row("skipped", name, note=f"skipped: {reason}"))

    def _append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def new_row(
    kind: str,
    name: str,
    value: float | str | None = None,
    unit: str = "",
    right: bool | None = None,
    wanted: str = "",
    note: str = "",
) -> Row:
    """A row; a comparison of numpy's or torch's is taken as a Python bool.

    A number that is not finite becomes text, which JSON has, and is wrong wherever something was wanted.
    """
    right = None if right is None else bool(right)
    if isinstance(value, float) and not math.isfinite(value):
        value, right = str(float(value)), False if wanted or right is not None else None
    return {"kind": kind, "name": name, "value": value, "unit": unit, "right": right, "wanted": wanted, "note": note}


def error_row(name: str, note: str) -> Row:
    """The row for what failed."""
    return new_row("error", name, right=False, note=note)


def read_rows(path: Path) -> list[Row]:
    """The rows that a step has written; a last line that was cut is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
