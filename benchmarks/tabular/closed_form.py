"""Linear regression by gradient descent beside the closed form: the largest relative difference of their answers.

marquee train runs with its defaults for a linear model: full batches, float64, a learning rate and a momentum from the
data, until the norm of the gradient is at most 1e-9 (for diamonds see OPTIONS). marquee evaluate writes the bundle's
answers for all rows of the table. The other side is numpy.linalg.lstsq on the same training rows, with scaling and
one-hot columns of scikit-learn.

Example: python -m benchmarks.tabular.closed_form
"""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks import ROOT, WORK, main, tell
from benchmarks.results import Series, Values, add, origin, write_result
from benchmarks.tabular.datasets import Name, Table, load_table
from benchmarks.tabular.scikit import matrix
from benchmarks.training.runs import flags, read_epochs, run_json, train
from marquee.training.core.config import load_run_config
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.tabular.config import TableLoopConfig

RESULTS = ROOT / "benchmarks" / "tabular" / "results"
OPTIONS: dict[Name, dict[str, object]] = {
    "diabetes": {},
    "penguins": {},
    # Some answers for diamonds are close to zero, and one has a width of 59 mm, 47 deviations from the mean.
    "diamonds": {"loop.gradient_tolerance": 1e-12},
}
"""Data set -> options of marquee train. Cars are left out: scikit-learn has no number for a date."""


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """Arguments."""

    data: tuple[Name, ...] = tuple(OPTIONS)
    """Data sets."""
    work: Path = WORK / "tabular" / "closed_form"
    """Folder for data and runs."""
    results: Path = RESULTS
    """Folder of the result file."""


def measure(settings: ClosedForm) -> Path:
    """Compares the answers for each data set and returns the result file."""
    source, series = origin("closed_form"), Series()
    for name in settings.data:
        values = compare(load_table(name), OPTIONS[name], settings.work.absolute() / name)
        add(series, name, values)
        tell(f"{name}: largest relative difference {values['difference']:.2g} after {values['steps']:.0f} steps")
    return write_result(settings.results, source, {"wanted": 1e-6}, series)


def compare(table: Table, options: Mapping[str, object], work: Path) -> Values:
    """The largest relative difference of the answers for all rows, and what it took."""
    shutil.rmtree(work, ignore_errors=True)
    data, out = table.write(work / "table.csv"), work / "run"
    # Answers outside of the target's range are compared as well.
    used = {"task": "tabular-regression", "table.target": table.target, "export.no_clip": True, **options}
    train(data, out, flags(used))
    answers_file = work / "answers.csv"
    asked = ["--data", str(data), "--predictions", str(answers_file), "--seen", "--json"]
    run_json(["marquee", "evaluate", str(out), *asked])
    answers = np.array([float(row["value"]) for row in _rows(answers_file)])
    exact = least_squares(table, _training_rows(table, out))
    config = load_run_config(RunFolder(out).config)
    assert isinstance(config.loop, TableLoopConfig)
    return {
        "difference": float(np.max(np.abs(answers - exact) / np.abs(exact))),
        "steps": float(len(read_epochs(out)) * config.loop.passes),
        "rate": config.optimizer.lr,
        "momentum": config.optimizer.momentum,
        "tolerance": config.loop.gradient_tolerance,
        "rows": float(len(table)),
    }


def least_squares(table: Table, rows: np.ndarray) -> np.ndarray:
    """Answers for all rows, float64 (N,), of the least-squares fit to ``rows``."""
    values, (numbers, categories), _ = matrix(table)
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories),
        ]
    ).fit(values[rows])
    design = np.column_stack([prepare.transform(values), np.ones(len(values))]).astype(np.float64)
    weights, *_ = np.linalg.lstsq(design[rows], table.targets[rows])
    return np.asarray(design @ weights)


def _training_rows(table: Table, out: Path) -> np.ndarray:
    """Numbers of the rows that a run trained on: its manifest names them as FILE:LINE, and line 1 is the header."""
    lines = [int(row["path"].rpartition(":")[2]) for row in _rows(RunFolder(out).manifest) if row["split"] == "train"]
    return np.array(lines) - 2


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main(measure, ClosedForm, __doc__)
