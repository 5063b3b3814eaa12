"""Reads a finished run folder into one typed object; report and model card use nothing else."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from marquee import hints
from marquee.handlers.core.bundle import bundle_digest, read_spec
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.spec import ModelSpec
from marquee.handlers.inputs.image.spec import ImageSpec, image_of
from marquee.handlers.outputs.classification import ClassificationSpec, classification_of
from marquee.training.core.config import load_run_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.rejected import Rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.task import ImageClassification

_MEASURES = (
    "split",
    "images",
    "accuracy",
    "accuracy_interval",
    "ece",
    "uncalibrated",
    "reliability",
    "per_class",
)
"""What every evaluation contains (see :meth:`marquee.training.core.task.Task.measure`); ``abstain`` and ``ood`` are
optional."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The bundle's answers on the measured split; item ``i`` of each field belongs to the same image."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    """The truth."""
    predicted: tuple[str, ...]
    confidence: np.ndarray
    """float64 (N,), the answer's probability as served."""
    uncalibrated: np.ndarray
    """float64 (N,), the answer's probability at temperature 1."""

    @cached_property
    def correct(self) -> np.ndarray:
        """Which answers are right, bool (N,)."""
        pairs = zip(self.labels, self.predicted, strict=True)
        return np.fromiter((label == predicted for label, predicted in pairs), dtype=bool, count=len(self.labels))


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything that is read from the run folder."""

    folder: Path
    config: ImageRunConfig
    spec: ModelSpec
    digest: str
    """The bundle's digest, as in every served answer."""
    manifest: Manifest
    rejected: tuple[Rejected, ...]
    epochs: tuple[dict[str, Any], ...]
    """The lines of metrics.jsonl."""
    evaluation: dict[str, Any]
    predictions: Predictions
    environment: dict[str, Any]
    optimization: dict[str, Any] | None
    """The result of marquee optimize; None before it ran."""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @property
    def task(self) -> ImageClassification:
        """The task of the run."""
        return cast(ImageClassification, task_of(self.config))

    @property
    def image(self) -> ImageSpec:
        """The served preprocessing."""
        return image_of(self.spec)

    @property
    def output(self) -> ClassificationSpec:
        """The labels, and the calibration of the first variant."""
        return classification_of(self.spec)

    @property
    def measured(self) -> list[Record]:
        """The images of the measured split."""
        return self.manifest.split(self.evaluation["split"])


def read_facts(run: Path) -> RunFacts:
    """Reads a finished run.

    Raises:
        TrainingError: a file is missing or unreadable; the message names it.
    """
    folder = RunFolder(Path(run))
    evaluation = _read_object(folder.evaluation)
    for key in _MEASURES:
        if key not in evaluation:
            raise TrainingError(f"{folder.evaluation}: has no {key!r}; train the run again")
    try:
        spec, digest = read_spec(folder.bundle), bundle_digest(folder.bundle)
    except BundleError as error:
        raise TrainingError(str(error)) from error
    config = load_run_config(folder.config)
    return RunFacts(
        folder=folder.path,
        config=config,
        spec=spec,
        digest=digest,
        manifest=task_of(config).read_manifest(folder.manifest),
        rejected=tuple(Rejected(row[0], row[1]) for row in _rows(folder.rejected, columns=2)),
        epochs=_read_epochs(folder.metrics),
        evaluation=evaluation,
        predictions=_read_predictions(folder.predictions, spec),
        environment=_read_object(folder.environment),
        optimization=_read_object(folder.optimization) if folder.optimization.exists() else None,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: not found; a report needs a finished run; finish it: "
            f"{hints.command('train', '--out', path.parent, '--resume')}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path}: expected one JSON object")
    return value


def _read_epochs(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(json.loads(line) for line in _read_text(path).splitlines())
    except ValueError as error:
        raise TrainingError(f"{path}: not readable as JSON lines: {error}") from error


def _rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The rows of a CSV file after its header; a class may be called ``path``, so columns go by position."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = csv.reader(stream)
            next(rows, None)
            for row in rows:
                if len(row) < columns:
                    raise TrainingError(f"{path}: line {rows.line_num}: expected {columns} columns, got {len(row)}")
                yield row
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: not found; a report needs a finished run") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: not readable as CSV: {error}") from error


def _read_predictions(path: Path, spec: ModelSpec) -> Predictions:
    """Keeps only what the report needs of each line: a thousand probabilities per image would fill the memory."""
    paths, labels, predicted, confidence, uncalibrated = [], [], [], [], []
    output_spec = classification_of(spec)
    output = output_spec.create(spec.variants[0], None)
    for row in _rows(path, columns=3 + len(output_spec.labels)):
        try:
            probabilities = np.array(row[3:], dtype=np.float64)
        except ValueError as error:
            raise TrainingError(f"{path}: {row[0]}: a probability is not a number: {error}") from error
        paths.append(row[0])
        labels.append(row[1])
        predicted.append(row[2])
        confidence.append(output.confidence(probabilities))
        uncalibrated.append(output.confidence(output.uncalibrated(probabilities)))
    return Predictions(
        paths=tuple(paths),
        labels=tuple(labels),
        predicted=tuple(predicted),
        confidence=np.array(confidence, dtype=np.float64),
        uncalibrated=np.array(uncalibrated, dtype=np.float64),
    )
