"""The paths of a run's files."""

from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.core.spec import BUNDLE_FOLDER


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: the path of each of its files, whether the file exists yet or not."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; ``--config`` reads it back."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Every image with label, split and sha256. The last file written before training."""
        return self.path / "manifest.csv"

    @property
    def rejected(self) -> Path:
        """Files that were left out, and why."""
        return self.path / "rejected.csv"

    @property
    def environment(self) -> Path:
        """Machine, devices, library versions."""
        return self.path / "environment.json"

    @property
    def cache(self) -> Path:
        """Decoded images, while the run trains (see :mod:`marquee.training.tasks.image_classification.data.cache`)."""
        return self.path / "cache"

    @property
    def checkpoints(self) -> Path:
        """See :mod:`marquee.training.core.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same metrics, for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def bundle(self) -> Path:
        """The bundle, which is packaged and served."""
        return self.path / BUNDLE_FOLDER

    @property
    def evaluation(self) -> Path:
        """Metrics of the bundle on the test images."""
        return self.path / "evaluation.json"

    @property
    def predictions(self) -> Path:
        """The bundle's answer for each of the test images."""
        return self.path / "predictions.csv"

    @property
    def optimization(self) -> Path:
        """The measurements of the bundle's variants."""
        return self.path / "optimization.json"

    @property
    def report(self) -> Path:
        """The report: the whole run on one page."""
        return self.path / "report.html"

    @property
    def model_card(self) -> Path:
        """The model card."""
        return self.path / "MODEL_CARD.md"

    @property
    def is_begun(self) -> bool:
        """Whether a run was started here: its manifest exists."""
        return self.manifest.is_file()

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        from marquee.training.core.checkpoint import CheckpointStore  # imports torch

        return not CheckpointStore(self.checkpoints).is_empty
