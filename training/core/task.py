"""The interface of a task: everything in a run that depends on the kind of data and answers.

The methods are in the order in which a run calls them. A task is stateless: the configuration, the data and the spec
are passed to it, so that the same object works for a run and for an imported bundle.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.accuracy import Quality
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.input import InputSpec
from marquee.handlers.core.output import CalibrationSpec, OutputSpec
from marquee.handlers.core.spec import TOLERANCES, ModelSpec, Precision
from marquee.training.core.context import RunContext
from marquee.training.core.dataset import content_of
from marquee.training.core.errors import DataError, OptimizeError, TrainingError
from marquee.training.core.objective import Objective
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.core.sampler import DistributedBatchSampler, Loader
from marquee.training.tasks import task_named

C = TypeVar("C")
"""The task's configuration."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model with its initial weights, and the input that belongs to it."""

    model: nn.Module
    """Called with the result of :meth:`Objective.inputs`, in training as in the exported program."""
    input: InputSpec


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The source of a run's batches."""

    sampler: DistributedBatchSampler
    """Sampler of the training items."""
    train: Loader
    val: Loader
    """Both loaders yield batches of tensors with one row per item, of this process's share."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """The part of a trained model that is exported."""

    module: nn.Module
    """In eval mode, on the CPU; takes the arrays of the input, returns one tensor or a tuple."""
    outputs: tuple[str, ...]
    """Names of its outputs."""
    files: tuple[str, ...] = ()
    """Further files of the variant, already written to the bundle's folder."""
    precision: Precision = "fp32"
    """Number format of its matrix products; the name of the variant, too."""

    @property
    def tolerance(self) -> float:
        """Largest difference of a served number that counts as equal."""
        return TOLERANCES[self.precision]


@dataclass(frozen=True)
class Fitted:
    """What was fitted on validation data, and facts about the fit."""

    calibration: CalibrationSpec
    facts: dict[str, Any]


class Task(ABC, Generic[C]):
    """One kind of data and answers."""

    name: str
    """As in :data:`marquee.training.tasks.TASKS`."""
    unit: str
    """The plural noun for items, such as ``images``."""
    tables: tuple[str, ...] = ()
    """Names of metrics that are too long to be stored in a bundle."""

    # --- before anything is read

    def check(self, config: C) -> None:
        """Raises TrainingError for settings that cannot work, before any work is done."""

    def title(self, config: C) -> str:
        """A short name of the model."""
        return self.name

    # --- data

    @abstractmethod
    def read(self, config: C, data: Path, progress: Progress) -> tuple[Any, list[Rejected]]:
        """Every usable item of a data set, with the splits that it defines, and the items that are left out.

        Raises:
            DataError: ``data`` cannot be used.
        """

    @abstractmethod
    def read_for(self, spec: ModelSpec, data: Path, progress: Progress) -> tuple[Any, list[Rejected]]:
        """As :meth:`read`, for the evaluation of a bundle."""

    @abstractmethod
    def split(self, config: C, manifest: Any) -> tuple[Any, list[str]]:
        """Assigns a split to every item; returns the manifest and warnings.

        Raises:
            DataError: the items cannot be split into usable training and validation items.
        """

    @abstractmethod
    def read_manifest(self, path: Path) -> Any:
        """Reads what :meth:`write_manifest` wrote."""

    @abstractmethod
    def write_manifest(self, path: Path, manifest: Any) -> None:
        """Writes the record of the items that a run uses."""

    def missing(self, manifest: Any) -> Sequence[str]:
        """Paths of items that can no longer be read; none for tasks whose manifests hold the items themselves."""
        return ()

    def find_again(self, config: C, manifest: Any, data: Path, progress: Progress) -> Any:
        """The manifest of a run, with the places at which its items lie in a data set now.

        Raises:
            DataError: ``data`` does not have the items of the manifest.
        """
        there, _ = self.read(config, data, progress)
        if Counter(map(content_of, manifest.records)) != Counter(map(content_of, there.records)):
            raise DataError(
                f"{data}: has other {self.unit} than this run was begun with ({len(there.records)} there, "
                f"{len(manifest.records)} in the run); leave --data out, or train into a new folder"
            )
        return manifest

    def describe(self, manifest: Any) -> str:
        """The data set in one line."""
        return f"{len(manifest.records)} {self.unit}"

    def findings(self, manifest: Any) -> Sequence[str]:
        """What reading the data set gave rise to, one line each; usually none."""
        return ()

    def resolve(self, config: C, manifest: Any) -> C:
        """The configuration with values in place of those that follow from the data; the run keeps the result."""
        return config

    def advise(self, config: C, manifest: Any) -> list[str]:
        """Hints and warnings before a run; usually none."""
        return []

    # --- training

    @abstractmethod
    def build(self, config: C, manifest: Any) -> Network:
        """The network with its initial weights."""

    def place(self, config: C, model: nn.Module, device: torch.device) -> None:
        """Moves a network to the device of a run."""
        model.to(device)

    @abstractmethod
    def feed(self, config: C, manifest: Any, network: Network, context: RunContext, cache: bool = True) -> Feed:
        """The batches of a run.

        Args:
            config: the run's configuration.
            manifest: the run's manifest.
            network: the network, from :meth:`build`.
            context: the run's folder, device and processes.
            cache: whether prepared items may be cached in the run's folder.
        """

    @abstractmethod
    def objective(
        self, config: C, manifest: Any, network: Network, steps: int, device: torch.device, precision: str
    ) -> Objective:
        """The objective of a run of ``steps`` steps."""

    def for_trials(self, config: C, manifest: Any) -> tuple[C, Any]:
        """Configuration and manifest of a run with few items whose steps need as much memory as the whole run's."""
        return config, manifest

    # --- export

    @abstractmethod
    def program(self, config: C, manifest: Any, network: Network, folder: Path, progress: Progress) -> Program:
        """The program to export.

        Args:
            config: the run's configuration.
            manifest: the run's manifest.
            network: the trained network, on the CPU in eval mode.
            folder: the bundle's folder, to which further files are written.
            progress: where progress is reported.
        """

    @abstractmethod
    def output(self, config: C, manifest: Any) -> OutputSpec:
        """How the program's outputs become answers, before calibration."""

    @abstractmethod
    def calibrate(self, config: C, output: Any, outputs: Arrays, targets: np.ndarray) -> Fitted:
        """Calibrates the output.

        Args:
            config: the run's configuration.
            output: the output of the uncalibrated predictor.
            outputs: results of :meth:`marquee.handlers.core.output.Output.read` for validation items.
            targets: their targets, from :meth:`targets`.
        """

    def note_export(self, config: C, metrics: dict[str, Any]) -> None:
        """Adds the settings that an export was made with to its metrics."""

    @abstractmethod
    def choose_golden(self, manifest: Any, measured: str, count: int) -> list[Any]:
        """Items for the golden samples, from the measured split first; deterministic."""

    @abstractmethod
    def truth(self, record: Any) -> dict[str, Any]:
        """The ground truth of an item as JSON values, for its golden answer."""

    @abstractmethod
    def request(self, record: Any) -> tuple[str, bytes]:
        """What a client would send for an item: the suffix of the file name, and the content."""

    # --- evaluation

    @abstractmethod
    def batches(self, spec: ModelSpec, records: Sequence[Any], workers: int) -> Iterable[Arrays]:
        """The input arrays of ``records``, in their order, exactly as they are served.

        Raises:
            DataError: an item has changed, or the bundle does not know its ground truth.
        """

    @abstractmethod
    def targets(self, spec: ModelSpec, records: Sequence[Any]) -> np.ndarray:
        """The ground truth of ``records``, one row per item.

        Raises:
            DataError: the bundle does not know it.
        """

    @abstractmethod
    def measure(self, output: Any, records: Sequence[Any], outputs: Arrays) -> dict[str, Any]:
        """The metrics of a bundle's answers.

        Args:
            output: the output of the predictor.
            records: the items.
            outputs: the predictor's outputs for them.
        """

    def views(self, inputs: Arrays, augmentation: str) -> Iterable[Arrays]:
        """Views of the same items whose outputs are averaged: test-time augmentation.

        Raises:
            TrainingError: this task has none.
        """
        if augmentation != "none":
            raise TrainingError(f"--tta {augmentation}: models for {self.name} have no test-time augmentation")
        return [inputs]

    @abstractmethod
    def write_predictions(self, path: Path, output: Any, records: Sequence[Any], outputs: Arrays) -> None:
        """Writes one CSV line per item: its path, its ground truth and its answer."""

    # --- optimisation: a task that does not override these has only the first variant

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Batch sizes whose throughput is measured."""
    equal_variants: bool = False
    """Whether every variant must give the first one's answers, to within its tolerance."""

    @property
    def quality(self) -> Quality:
        """What the quality of the answers is, and how a loss of it is judged."""
        return Quality(unit=self.unit)

    def variant_kinds(self, spec: ModelSpec) -> tuple[str, ...] | None:
        """Kinds of variants that a model can have besides its first one; None: every kind."""
        return None

    def edges(self, spec: ModelSpec) -> Arrays | None:
        """Input arrays of rare items, which every variant must answer as the first one does; None: none are known."""
        return None

    def rebuild(self, config: C, spec: ModelSpec) -> nn.Module:
        """The network of a bundle's run, into which its weights are then loaded."""
        raise self._not_optimized()

    def stratum(self, record: Any) -> str:
        """The stratum of an item; samples contain each stratum in proportion."""
        return ""

    def right(self, output: Any, outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """Bool (N,): which answers are right."""
        raise self._not_optimized()

    def scores(self, output: Any, outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """The score of each answer, (N,), whose mean is the :attr:`quality`: bool, or float64 if it is graded."""
        return self.right(output, outputs, targets)

    def loses_most(self, output: Any, targets: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
        """Which class a variant answers worse than the first one, as a sentence; empty where there are no classes.

        Args:
            output: of the variant.
            targets: see :meth:`targets`.
            before: the scores of the first variant's answers, see :meth:`scores`.
            after: those of the variant's.
        """
        return ""

    def calibration_error(self, output: Any, outputs: Arrays, targets: np.ndarray) -> float | None:
        """The difference between the confidence of answers and the share of right ones; None if there is none."""
        raise self._not_optimized()

    def served(self, model: nn.Module, outputs: tuple[str, ...]) -> nn.Module:
        """The module that returns the outputs of these names, for a network from :meth:`rebuild`."""
        return model

    def served_by(self, engine: str, spec: ModelSpec, model: nn.Module, outputs: tuple[str, ...]) -> nn.Module:
        """The module, in eval mode, whose program an engine runs.

        Args:
            engine: as in :attr:`VariantSpec.engine`.
            spec: the bundle's.
            model: the network, from :meth:`rebuild`.
            outputs: names of its outputs.

        Raises:
            OptimizeError: the engine cannot run this network.
        """
        return self.served(model, outputs).eval()

    def lower(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """A copy of a network that computes in half precision.

        Raises:
            OptimizeError: this kind of network does not support it.
        """
        raise self._not_optimized()

    def short_loop(self, loop: Any) -> Any:
        """The settings of a run's loop, adapted to a short run that continues from its weights."""
        return loop

    def chance(self, config: C, manifest: Any) -> float:
        """Score on the validation items of the best constant answer, as the run's epochs are scored."""
        raise self._not_optimized()

    def _not_optimized(self) -> OptimizeError:
        return OptimizeError(f"models for {self.name} cannot be optimised")

    # --- report

    meanings: Mapping[str, str] = MappingProxyType({})
    """Metric -> its meaning, in the order in which metrics are displayed."""

    def details(self, metrics: Mapping[str, Any]) -> list[str]:
        """Further lines about the metrics of an evaluation."""
        return []

    @abstractmethod
    def summary(self, metrics: Mapping[str, Any]) -> str:
        """The metrics of a bundle in one line."""

    def write_report(self, run: Path) -> dict[str, Path]:
        """Writes the report pages of a finished run; returns the path of each.

        Raises:
            TrainingError: the folder is not a finished run; the message names the file.
        """
        return {}


def row(name: str, value: str, meaning: str) -> str:
    """One line about a metric."""
    return f"{name:22s} {value:16s} {meaning}"


def task_of(config: Any) -> "Task[Any]":
    """The task of a run's configuration."""
    return task_named(config.task)


def task_for(spec: ModelSpec) -> "Task[Any]":
    """The task of a bundle.

    Raises:
        TrainingError: the bundle is of a task that is not known here.
    """
    try:
        return task_named(spec.task)
    except ValueError as error:
        raise TrainingError(f"the bundle's spec.json: {error}") from error
