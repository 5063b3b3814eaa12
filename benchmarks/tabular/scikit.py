"""Scikit-learn's side: the columns of a table as it wants them, and the pipelines to compare with."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from benchmarks.tabular.datasets import Table

MAX_CATEGORIES = 100
"""A column of texts with more distinct values is left out, as this project does by default."""
Columns = tuple[list[int], list[int]]
"""Positions of the numbers and of the categories."""


def matrix(table: Table) -> tuple[np.ndarray, Columns, tuple[str, ...]]:
    """The features as one array.

    Returns:
        object (N, features), numbers as floats (NaN where missing) and categories as texts; the positions of both; the
        names of the columns.
    """
    columns: list[list[Any]] = []
    names: list[str] = []
    numbers: list[int] = []
    for name in table.features:
        cells = table.column(name)
        if _are_numbers(cells):
            numbers.append(len(columns))
            columns.append([float(cell) if cell else np.nan for cell in cells])
        elif len(set(cells)) <= MAX_CATEGORIES:
            columns.append(list(cells))
        else:
            continue
        names.append(name)
    values = np.empty((len(table), len(columns)), object)
    for position, column in enumerate(columns):
        values[:, position] = column
    categories = [position for position in range(len(columns)) if position not in numbers]
    return values, (numbers, categories), tuple(names)


def ridge(columns: Columns) -> Any:
    """Ridge with default settings, on scaled numbers (median where one is missing) and one column for each category."""
    numbers, categories = columns
    prepare = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ("categories", OneHotEncoder(handle_unknown="ignore"), categories),
        ]
    )
    return make_pipeline(prepare, Ridge())


def boosting(columns: Columns) -> Any:
    """HistGradientBoostingRegressor with default settings, on numbers as they are and categories as codes."""
    numbers, categories = columns
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    prepare = ColumnTransformer([("numbers", "passthrough", numbers), ("categories", codes, categories)])
    return make_pipeline(prepare, HistGradientBoostingRegressor(random_state=0))


ESTIMATORS: dict[str, Callable[[Columns], Any]] = {
    "scikit-learn Ridge": ridge,
    "scikit-learn HistGradientBoosting": boosting,
}
"""Contender -> its pipeline."""


def rmse(answers: np.ndarray, targets: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((answers - targets) ** 2)))


def _are_numbers(cells: list[str]) -> bool:
    try:
        return all(np.isfinite(float(cell)) for cell in cells if cell)
    except ValueError:
        return False
