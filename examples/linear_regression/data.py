"""The tables of the example."""

import csv
from pathlib import Path

import numpy as np

PRINTED = np.array([[0.12, 0.85], [0.35, 0.41], [0.58, 0.93], [0.71, 0.24], [0.96, 0.62]])
"""A table as small as those that are printed in tutorials: every number is below 1."""
ROWS = 60
"""So many that 9 of them are validation rows, without which there is no interval of 90 %."""


def target_of(features: np.ndarray) -> np.ndarray:
    """What is to be learnt, the sum of the columns: float64 (N, columns) -> float64 (N,)."""
    result: np.ndarray = features.sum(axis=1).round(2)
    return result


def more_rows() -> np.ndarray:
    """The printed rows, and others of the same kind: float64 (ROWS, 2)."""
    others = np.random.default_rng(0).random((ROWS - len(PRINTED), PRINTED.shape[1])).round(2)
    return np.concatenate([PRINTED, others])


def diabetes() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Scikit-learn's diabetes data (Efron et al., 2004): names, features float64 (442, 10), target float64 (442,)."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return list(data.feature_names), data.data, data.target


def write_table(path: Path, names: list[str], features: np.ndarray, target: np.ndarray) -> Path:
    """Writes a CSV file with the target in the column ``y``; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*names, "y"])
        writer.writerows(np.column_stack([features, target]).tolist())
    return path
