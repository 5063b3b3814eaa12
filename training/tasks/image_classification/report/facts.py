"""Reads a finished run folder into one typed object; report and model card use nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from marquee.handlers.inputs.image.spec import ImageSpec, image_of
from marquee.handlers.outputs.classification import ClassificationSpec, classification_of
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of
from marquee.training.report.class_predictions import ClassPredictions, read_class_predictions
from marquee.training.report.run_files import RunFiles, read_run
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest
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
class RunFacts(RunFiles):
    """Everything that is read from the run folder."""

    config: ImageRunConfig
    manifest: Manifest
    predictions: ClassPredictions

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


def read_facts(run: Path) -> RunFacts:
    """Reads a finished run.

    Raises:
        TrainingError: a file is missing or unreadable; the message names it.
    """
    files = read_run(run, _MEASURES)
    predictions = read_class_predictions(RunFolder(files.folder).predictions, files.spec)
    return RunFacts(**vars(files), predictions=predictions)
