"""Reads a finished run on a table into one typed object; report and model card use nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.table.spec import TableSpec, table_of
from marquee.handlers.outputs.classification import ClassificationSpec, classification_of
from marquee.handlers.outputs.outside import OUTSIDE
from marquee.handlers.outputs.regression import RegressionCalibration, RegressionSpec, regression_of
from marquee.training.core.config import load_run_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.evaluation import predict_outputs
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder
from marquee.training.report.class_predictions import ClassPredictions, read_class_predictions
from marquee.training.report.run_files import RunFiles, read_rows, read_run
from marquee.training.report.text import amount, percent
from marquee.training.tasks.tabular.config import TableRunConfig, TabularRegressionConfig
from marquee.training.tasks.tabular.importance import (
    Importances,
    Measure,
    log_loss,
    permutation_importance,
    root_mean_squared_error,
)
from marquee.training.tasks.tabular.manifest import TableManifest, arrays_of, indices_of, numbers_of

_REGRESSION = ("split", "rows", "rmse", "mae", "median_error", "r2", "bias")
_CLASSIFICATION = ("split", "rows", "accuracy", "accuracy_interval", "ece", "uncalibrated", "reliability", "per_class")
"""What every evaluation contains (see :meth:`marquee.training.core.task.Task.measure`); the rest is optional."""


@dataclass(frozen=True, kw_only=True)
class TableFacts(RunFiles, ABC):
    """What is read from the run folder, and what its bundle answers to the measured rows."""

    answer_headings: ClassVar[tuple[str, ...]]

    config: TableRunConfig
    manifest: TableManifest

    @property
    def table(self) -> TableSpec:
        """The columns, with what training saw in them."""
        return table_of(self.spec)

    @cached_property
    def predictor(self) -> Predictor:
        """The bundle's first variant, which the evaluation measured.

        Raises:
            TrainingError: it cannot be loaded.
        """
        try:
            return Predictor.load(RunFolder(self.folder).bundle, variant=self.spec.variants[0].name)
        except BundleError as error:
            raise TrainingError(str(error)) from error

    @cached_property
    def inputs(self) -> Arrays:
        """The measured rows as they are served."""
        return arrays_of(self.table, self.measured)

    @cached_property
    def training_inputs(self) -> Arrays:
        """The training rows as they would be served."""
        return arrays_of(self.table, self.manifest.split("train"))

    @cached_property
    def outside(self) -> np.ndarray:
        """In which features a measured row lies outside of what training saw: bool (N, features)."""
        shape = (len(self.measured), len(self.table.features))
        outputs = predict_outputs(self.predictor, self.measured, 0, Progress(quiet=True))
        return np.asarray(outputs.get(OUTSIDE, np.zeros(shape)), dtype=bool)

    @cached_property
    def unfamiliar(self) -> np.ndarray:
        """Which measured rows lie outside in some feature: bool (N,)."""
        return np.asarray(self.outside.any(axis=1))

    @cached_property
    def importances(self) -> Importances | None:
        """See :func:`marquee.training.tasks.tabular.importance.permutation_importance`."""
        loop = self.config.loop
        trained = len(self.epochs) * max(1, loop.passes) * len(self.manifest.split("train"))
        return permutation_importance(self.predictor, self.inputs, self.targets, self.worsens, loop.seed, trained)

    @property
    @abstractmethod
    def targets(self) -> np.ndarray:
        """The truth of the measured rows."""

    @property
    @abstractmethod
    def worsens(self) -> Measure:
        """What an importance is a rise of."""

    @abstractmethod
    def answer(self, number: int) -> tuple[str, ...]:
        """Truth and answer of the measured row at a place, as they are shown under :attr:`answer_headings`."""


@dataclass(frozen=True, kw_only=True)
class RegressionPredictions:
    """The bundle's answers on the measured split; item ``i`` of each field belongs to the same row."""

    values: np.ndarray
    """float64 (N,)"""
    targets: np.ndarray
    """float64 (N,), the truth."""

    @property
    def errors(self) -> np.ndarray:
        """Answer minus truth, float64 (N,)."""
        return np.asarray(self.values - self.targets)


@dataclass(frozen=True, kw_only=True)
class RegressionFacts(TableFacts):
    """Of a run that predicts a number."""

    answer_headings: ClassVar[tuple[str, ...]] = ("Actual", "Predicted", "Error")

    predictions: RegressionPredictions

    def answer(self, number: int) -> tuple[str, ...]:
        """Truth, answer, and their difference."""
        found = self.predictions
        return amount(found.targets[number]), amount(found.values[number]), amount(found.errors[number])

    @property
    def output(self) -> RegressionSpec:
        """The target, and the width of the intervals."""
        return regression_of(self.spec)

    @property
    def calibration(self) -> RegressionCalibration:
        """That of the first variant: level and half of the width of its intervals."""
        return self.output.create(self.spec.variants[0], None).calibration

    @property
    def inside(self) -> np.ndarray | None:
        """Bool (N,): which measured intervals contain the truth; None where there are none."""
        half = self.calibration.half_width
        return None if half is None else np.asarray(np.abs(self.predictions.errors) <= half)

    @property
    def targets(self) -> np.ndarray:
        """Numbers, float64 (N,)."""
        return numbers_of(self.measured)

    @property
    def worsens(self) -> Measure:
        """The root of the mean squared error."""
        return root_mean_squared_error()


@dataclass(frozen=True, kw_only=True)
class ClassificationFacts(TableFacts):
    """Of a run that predicts a class."""

    answer_headings: ClassVar[tuple[str, ...]] = ("Truth", "Answer", "Confidence")

    predictions: ClassPredictions

    def answer(self, number: int) -> tuple[str, ...]:
        """Truth, answer, and its probability."""
        found = self.predictions
        return found.labels[number], found.predicted[number], percent(found.confidence[number])

    @property
    def output(self) -> ClassificationSpec:
        """The labels, and the calibration of the first variant."""
        return classification_of(self.spec)

    @property
    def targets(self) -> np.ndarray:
        """Indices of labels, int64 (N,)."""
        return indices_of(self.measured, self.output.labels)

    @property
    def worsens(self) -> Measure:
        """The log loss."""
        return log_loss(self.predictor.output)


def read_facts(run: Path) -> RegressionFacts | ClassificationFacts:
    """Reads a finished run.

    Raises:
        TrainingError: a file is missing or unreadable; the message names it.
    """
    folder = RunFolder(Path(run))
    regression = isinstance(load_run_config(folder.config), TabularRegressionConfig)
    files = read_run(run, _REGRESSION if regression else _CLASSIFICATION)
    expected = [record.path for record in files.measured]
    if regression:
        paths, answers = _read_regression(folder.predictions)
        _check_paths(folder.predictions, paths, expected)
        return RegressionFacts(**vars(files), predictions=answers)
    predictions = read_class_predictions(folder.predictions, files.spec)
    _check_paths(folder.predictions, predictions.paths, expected)
    return ClassificationFacts(**vars(files), predictions=predictions)


def _check_paths(path: Path, paths: Sequence[str], expected: Sequence[str]) -> None:
    if list(paths) != list(expected):
        raise TrainingError(f"{path}: its rows are not those that the run measured; train the run again")


def _read_regression(path: Path) -> tuple[list[str], RegressionPredictions]:
    paths, numbers = [], []
    for row in read_rows(path, columns=3):
        try:
            numbers.append((float(row[1]), float(row[2])))
        except ValueError as error:
            raise TrainingError(f"{path}: {row[0]}: not a number: {error}") from error
        paths.append(row[0])
    targets, values = np.array(numbers, np.float64).reshape(-1, 2).T
    return paths, RegressionPredictions(values=values, targets=targets)
