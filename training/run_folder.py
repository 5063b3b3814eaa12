"""Where the files of a run lie."""

from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.spec import BUNDLE_FOLDER


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: a place for each of its files, whether they are there yet or not."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; ``--config`` reads it back."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Every image with label, split and sha256. Written last of what is written before training."""
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
        """Decoded images, while the run trains (see :mod:`marquee.training.data.cache`)."""
        return self.path / "cache"

    @property
    def checkpoints(self) -> Path:
        """See :mod:`marquee.training.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same curves, for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def bundle(self) -> Path:
        """What is packaged and served."""
        return self.path / BUNDLE_FOLDER

    @property
    def evaluation(self) -> Path:
        """Metrics of the bundle on the test images."""
        return self.path / "evaluation.json"

    @property
    def predictions(self) -> Path:
        """The bundle's answer for each of them."""
        return self.path / "predictions.csv"

    @property
    def optimization(self) -> Path:
        """The variants of the bundle, as they were measured."""
        return self.path / "optimization.json"

    @property
    def report(self) -> Path:
        """All of it as one page for people."""
        return self.path / "report.html"

    @property
    def model_card(self) -> Path:
        """What the model is, for those who use it."""
        return self.path / "MODEL_CARD.md"

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here: its manifest is there."""
        return self.manifest.is_file()

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is something to go on with."""
        from marquee.training.checkpoint import CheckpointStore  # imports torch

        return not CheckpointStore(self.checkpoints).is_empty
