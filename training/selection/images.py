"""Selection for images with one label each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.selection.candidates import missing_weights
from marquee.training.selection.folds import make_folds
from marquee.training.selection.measure import ACCURACY, Measure
from marquee.training.selection.probe import Probe, train_probe
from marquee.training.selection.selectable import CheapProbe, Folds, Metrics, Selectable
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest
from marquee.training.tasks.image_classification.data.split import assign_splits
from marquee.training.tasks.image_classification.task import ImageClassification


class ImageSelection(Selectable[ImageRunConfig]):
    """Candidates are compared by accuracy; a frozen network with a logistic regression is a cheap probe."""

    unit = "images"
    item = "image"
    recorded = ("accuracy", "balanced_accuracy", "nll")
    latency = "for single images on this machine, without decoding"
    val_caveat = "which also selected its checkpoint"

    def check(self, candidates: Mapping[str, tuple[str, ImageRunConfig]], base: ImageRunConfig) -> None:
        """Every candidate gives one label."""
        if any(config.task != ImageClassification.name for _, config in candidates.values()):
            raise TrainingError(
                "--model.multi-label: folds of images with several labels are not supported; use marquee train instead"
            )

    def read(self, base: ImageRunConfig, data: Path, progress: Progress) -> tuple[Manifest, list[Rejected]]:
        """See :mod:`marquee.training.tasks.image_classification.data.scan`."""
        return ImageClassification().read(base, data, progress)

    def final(self, base: ImageRunConfig, manifest: Manifest) -> tuple[Manifest, list[str]]:
        """The splits that the data set names, and ``train`` for all other images."""
        final = Manifest(tuple(replace(record, split=record.split or "train") for record in manifest.records))
        return final, [*ImageClassification().findings(manifest), *assign_splits(final, base.split, base.loop.seed)[1]]

    def folds(self, base: ImageRunConfig, manifest: Manifest, count: int) -> Folds:
        """See :func:`marquee.training.selection.folds.make_folds`."""
        manifests = make_folds(manifest, count, base.loop.seed)
        return Folds(manifests=manifests, items=len(manifests[0].records))

    def digest_lines(self, manifest: Manifest) -> list[str]:
        """With the groups, which determine the folds (the manifest's own digest omits them)."""
        return [f"{r.sha256} {r.split} {r.label} {r.group}" for r in manifest.records]

    def measure(self, folds: Folds, baseline: Sequence[Metrics]) -> Measure:
        """Accuracy."""
        return ACCURACY

    def unavailable(self, config: ImageRunConfig, manifest: Manifest) -> str:
        """Pretrained weights that cannot be had."""
        return missing_weights(config, len(manifest.labels)) or ""

    def probe(self, config: ImageRunConfig, folds: Folds, progress: Progress) -> CheapProbe:
        """A frozen network; the features of all images are computed once."""
        records = folds.manifests[0].records
        pool = Manifest(tuple(replace(record, split="train") for record in records))
        return _ImageProbe(Probe(config, pool, progress), progress)


class _ImageProbe:
    def __init__(self, probe: Probe, progress: Progress) -> None:
        self._probe, self._progress = probe, progress

    def train(self, manifest: Any, out: Path) -> dict[str, Any]:
        """See :func:`marquee.training.selection.probe.train_probe`."""
        return train_probe(self._probe, manifest, out, self._progress)
