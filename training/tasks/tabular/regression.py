"""A number for each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.core.accuracy import Quality
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.outputs.outside import OUTSIDE
from marquee.handlers.outputs.regression import VALUE, Regression, RegressionCalibration, RegressionSpec
from marquee.training.core.dataset import groups_of
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_csv
from marquee.training.core.task import Fitted, row
from marquee.training.tasks.tabular.config import TabularRegressionConfig
from marquee.training.tasks.tabular.conformal import half_width
from marquee.training.tasks.tabular.manifest import Record, TableManifest, numbers_of
from marquee.training.tasks.tabular.metrics import MEANINGS, coverage, regression_metrics
from marquee.training.tasks.tabular.network import TabularNetwork
from marquee.training.tasks.tabular.objective import RegressionObjective
from marquee.training.tasks.tabular.preprocessing import TargetTransform, fit_target
from marquee.training.tasks.tabular.task import Tabular, features_of


class TabularRegression(Tabular[TabularRegressionConfig]):
    """A value, an interval around it, and the features in which the row is unlike the training rows."""

    name = "tabular-regression"
    kind = "regression"
    answer = VALUE
    meanings = MEANINGS

    def target_transform(self, config: TabularRegressionConfig, manifest: TableManifest) -> TargetTransform:
        """See :func:`marquee.training.tasks.tabular.preprocessing.fit_target`."""
        try:
            return fit_target(numbers_of(manifest.split("train")), config.prepare.target, config.export.clip)
        except ValueError as error:
            raise TrainingError(f"--{error}") from error

    def true(self, records: Sequence[Record], labels: Sequence[str]) -> np.ndarray:
        """Numbers."""
        return numbers_of(records)

    def create_objective(
        self, config: TabularRegressionConfig, network: TabularNetwork, targets: torch.Tensor
    ) -> RegressionObjective:
        """Squared, absolute or Huber errors."""
        return RegressionObjective(network, config.loss, config.augment)

    def output(self, config: TabularRegressionConfig, manifest: TableManifest) -> RegressionSpec:
        """The target's range is that of the training rows."""
        targets = numbers_of(manifest.split("train"))
        return RegressionSpec(
            target=manifest.target,
            unit=manifest.unit,
            low=float(targets.min()),
            high=float(targets.max()),
            columns=features_of(manifest.spec),
        )

    def calibrate(
        self, config: TabularRegressionConfig, output: Regression, outputs: Arrays, targets: np.ndarray
    ) -> Fitted:
        """The width of the intervals, from the errors on the validation rows."""
        half = half_width(np.abs(outputs[VALUE] - targets), config.export.interval)
        calibration = RegressionCalibration(level=config.export.interval, half_width=half)
        return Fitted(calibration, {"rows": len(targets), "level": config.export.interval, "half_width": half})

    def truth(self, record: Record) -> dict[str, Any]:
        """The target."""
        return {"target": record.number}

    def measure(self, output: Regression, records: Sequence[Record], outputs: Arrays) -> dict[str, Any]:
        """Errors, the coverage of the intervals, and the share of rows that are unlike the training rows."""
        values, targets = outputs[VALUE], numbers_of(records)
        metrics = regression_metrics(values, targets)
        if (half := output.calibration.half_width) is not None:
            metrics |= coverage(values, targets, half, groups_of(records))
        if OUTSIDE in outputs:
            metrics["unfamiliar"] = float(outputs[OUTSIDE].astype(bool).any(axis=1).mean())
        return metrics

    def write_predictions(self, path: Path, output: Regression, records: Sequence[Record], outputs: Arrays) -> None:
        """Writes ``path,target,value,low,high,unfamiliar``."""
        answers = output.predictions({**outputs, **_as_bool(outputs)})
        rows = (
            [record.path, record.target, repr(answer.value), *_ends(answer.interval), "|".join(answer.unfamiliar)]
            for record, answer in zip(records, answers, strict=True)
        )
        write_csv(path, ("path", "target", "value", "low", "high", "unfamiliar"), rows)

    @property
    def quality(self) -> Quality:
        """The share of the target's variance that the answers explain."""
        return Quality(name=RegressionSpec.quality, unit=self.unit, graded=True)

    def scores(self, output: Regression, outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """1 - squared error / variance of the targets, whose mean is R2; of equal targets, / squared range."""
        errors = outputs[VALUE] - targets
        # Rounding gives equal numbers a variance above 0.
        unit = output.spec.range**2 if targets.min() == targets.max() else targets.var()
        result: np.ndarray = 1 - errors**2 / unit
        return result

    def calibration_error(self, output: Regression, outputs: Arrays, targets: np.ndarray) -> float | None:
        """How far the share of intervals that contain the truth is from their level; None without intervals."""
        fitted = output.calibration
        if fitted.half_width is None:
            return None
        return float(abs((np.abs(outputs[VALUE] - targets) <= fitted.half_width).mean() - fitted.level))

    def details(self, metrics: Mapping[str, Any]) -> list[str]:
        """The interval of the coverage, and the unfamiliar rows."""
        lines = []
        if "coverage_interval" in metrics:
            low, high = metrics["coverage_interval"]
            lines.append(row("95 % interval", f"{low:.4f} to {high:.4f}", "of the coverage, for this number of rows"))
        if "unfamiliar" in metrics:
            share = f"{metrics['unfamiliar']:.4f}"
            lines.append(row("unfamiliar", share, "share of rows with a value outside of what training saw"))
        return lines

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """The metrics of a bundle in one line."""
        explained = "" if metrics["r2"] is None else f", R2 {metrics['r2']:.4f}"
        return f"{metrics['split']} RMSE {metrics['rmse']:.5g}{explained} on {metrics['rows']} rows"


def _ends(interval: tuple[float, float] | None) -> tuple[str, str]:
    """Both ends as text; empty without an interval."""
    return ("", "") if interval is None else (repr(interval[0]), repr(interval[1]))


def _as_bool(outputs: Arrays) -> Arrays:
    """Means of views are floats; a single view's are zeros and ones."""
    return {OUTSIDE: outputs[OUTSIDE].astype(bool)} if OUTSIDE in outputs else {}
