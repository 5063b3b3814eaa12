"""How often 90 % intervals contain the truth: the mean over 100 random splits of scikit-learn's diabetes data.

Each split is a run of its own, by marquee.training.core.run.train in this process, which spares the imports of 100
commands: linear regression with its default settings, export, intervals from the validation rows, coverage on the test
rows, both by the exported program. With 59 validation rows (N + 1) x 0.9 is an integer, so that the intervals contain
90 % in expectation, rather than somewhat more.

Example: python -m benchmarks.tabular.coverage
"""

import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT, main, tell
from benchmarks.results import Series, add, origin, write_result
from benchmarks.tabular.datasets import Table, load_table
from marquee.training.core.errors import TrainingError
from marquee.training.core.run import train
from marquee.training.tasks.tabular.config import (
    TableExportConfig,
    TableLoopConfig,
    TableSplitConfig,
    TabularRegressionConfig,
)
from marquee.training.tasks.tabular.table_config import TableConfig

RESULTS = ROOT / "benchmarks" / "tabular" / "results"
CONTENDER = "marquee linear"


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Arguments."""

    splits: int = 100
    """Runs, each with a split of its own; the seed is the number of the run."""
    level: float = 0.9
    """Share of the intervals that should contain the truth."""
    val: int = 59
    """Validation rows, from which the width of the intervals follows."""
    test: int = 88
    """Test rows, on which the coverage is measured."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        for name in ("splits", "val", "test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


def config_of(settings: Coverage, table: Table, seed: int) -> TabularRegressionConfig:
    """The configuration of one run."""
    return TabularRegressionConfig(
        table=TableConfig(target=table.target),
        split=TableSplitConfig(val=settings.val / len(table), test=settings.test / len(table)),
        export=TableExportConfig(interval=settings.level),
        loop=TableLoopConfig(seed=seed),
    )


def measure(settings: Coverage) -> Path:
    """Measures all splits and returns the result file.

    Raises:
        TrainingError: a run failed, or its split has other numbers of rows.
    """
    source, table, series = origin("coverage"), load_table("diabetes"), Series()
    logging.getLogger("marquee").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        data = table.write(Path(folder) / "diabetes.csv")
        for seed in range(settings.splits):
            before = time.monotonic()
            metrics = train(config_of(settings, table, seed), data, Path(folder) / str(seed), report=False)
            counts = (metrics["calibration"]["rows"], metrics["rows"])
            if counts != (settings.val, settings.test):
                raise TrainingError(f"seed {seed}: expected {settings.val} and {settings.test} rows, got {counts}")
            values = {name: metrics[name] for name in ("coverage", "interval_width", "rmse")}
            add(series, CONTENDER, {**values, "seconds": time.monotonic() - before})
            mean = statistics.mean(series[CONTENDER]["coverage"])
            tell(f"split {seed + 1}/{settings.splits}  coverage {metrics['coverage']:.4f}, mean {mean:.4f}")
    described = {
        "source": table.source,
        "level": settings.level,
        "rows": {"train": len(table) - settings.val - settings.test, "val": settings.val, "test": settings.test},
        "how": "marquee.training.core.run.train, in one process",
    }
    return write_result(settings.results, source, described, series)


if __name__ == "__main__":
    main(measure, Coverage, __doc__)
