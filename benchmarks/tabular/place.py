"""What the peer is told by its environment, and the model that it serves."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tabular.datasets import Table
from benchmarks.tabular.scikit import matrix, ridge

_VARIABLE = "BENCHMARK_PLACE"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the peer listens, and what it learns from when it starts."""

    port: int
    """On the loopback."""
    workers: int
    """Processes."""
    data: str
    """CSV file of the rows."""
    target: str
    """Column that is predicted."""

    def as_environment(self) -> dict[str, str]:
        """The variable that :func:`read_place` reads."""
        return {_VARIABLE: json.dumps(asdict(self))}


def read_place() -> Place:
    """This process's place, as the benchmark that started it says."""
    return Place(**json.loads(os.environ[_VARIABLE]))


class Model:
    """The pipeline, fitted to all rows of the place's file."""

    def __init__(self, place: Place) -> None:
        table = Table.read(Path(place.data), place.target)
        values, columns, self._names = matrix(table)
        _, self._categories = columns
        self._pipeline = ridge(columns).fit(values, table.targets)

    def answer(self, rows: list[dict[str, Any]]) -> list[float]:
        """A number for each row, in which None is a missing value."""
        values = np.empty((len(rows), len(self._names)), object)
        for position, name in enumerate(self._names):
            missing = "" if position in self._categories else np.nan
            cells = [row[name] for row in rows]
            values[:, position] = [missing if cell is None else cell for cell in cells]
        answers: list[float] = self._pipeline.predict(values).tolist()
        return answers
