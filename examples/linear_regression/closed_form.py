"""Least squares in closed form, on the rows that a run was trained on."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rows:
    """The rows of one split of a run."""

    cells: list[dict[str, Any]]
    """As a client sends them."""
    target: np.ndarray
    """float64 (N,)."""

    @property
    def design(self) -> np.ndarray:
        """The cells with a column of ones, float64 (N, columns + 1)."""
        features = np.array([list(row.values()) for row in self.cells], np.float64)
        return np.column_stack([features, np.ones(len(features))])


def read_rows(run: Path, split: str) -> Rows:
    """The rows of a split, from the run's manifest."""
    with open(run / "manifest.csv", newline="", encoding="utf-8") as stream:
        lines = [line for line in csv.DictReader(stream) if line["split"] == split]
    return Rows([json.loads(line["row"]) for line in lines], np.array([float(line["target"]) for line in lines]))


def closed_form(run: Path) -> np.ndarray:
    """The answers of least squares to the test rows, float64 (N,)."""
    train = read_rows(run, "train")
    weights, *_ = np.linalg.lstsq(train.design, train.target, rcond=None)
    result: np.ndarray = read_rows(run, "test").design @ weights
    return result


def rmse(values: np.ndarray, target: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(((values - target) ** 2).mean()))


def largest_difference(values: np.ndarray, others: np.ndarray) -> float:
    """Largest difference relative to ``others``."""
    return float((np.abs(values - others) / np.abs(others)).max())
