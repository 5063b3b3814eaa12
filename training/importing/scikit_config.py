"""Settings of the import of a scikit-learn estimator; the fields are the command-line options of marquee import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from marquee.training.core.config import at_least, within
from marquee.training.tasks.tabular.config import TableSplitConfig

SUFFIXES = (".skops",)
"""Suffixes of files that skops writes."""
PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".dill", ".cloudpickle")
"""Usual suffixes of pickled estimators, which run code when they are loaded."""


@dataclass(frozen=True, kw_only=True)
class TableImportConfig:
    """The estimator to import, and the table on which it is verified and calibrated."""

    model: Path
    """A fitted scikit-learn estimator or pipeline, saved with skops (.skops)."""
    data: Path
    """CSV or Parquet file with rows that the estimator can predict, and their targets."""
    target: str
    """Column that the estimator predicts."""
    features: tuple[str, ...] = ()
    """Columns that the estimator was fitted on, in its order; empty: the names that it stores, or, if it stores none,
    every column of the table but the target."""
    task: Optional[Literal["tabular-regression", "tabular-classification"]] = None
    """What the estimator predicts; None: what it says itself."""
    val: float = TableSplitConfig.val
    """Share of the rows on which intervals and temperature are fitted."""
    test: float = TableSplitConfig.test
    """Share of the rows on which the bundle is evaluated."""
    interval: float = 0.9
    """Share of the intervals around a predicted number that contain the truth (split conformal prediction)."""
    calibrate: bool = True
    """Fit the temperature of the probabilities; without it they are the estimator's own."""
    top_k: int = 5
    """Number of most probable labels in each served answer."""
    licence: str = ""
    """Licence of the estimator, recorded in the bundle."""

    def __post_init__(self) -> None:
        at_least(self, top_k=1)
        within(self, 0.5, 0.999, "interval")
        TableSplitConfig(val=self.val, test=self.test)
        if self.target in self.features:
            raise ValueError(f"features: {self.target!r} is the target")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: a column is there twice")
