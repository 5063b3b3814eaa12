"""The project's own training loop, as ``marquee train`` builds it, a stretch of steps at a time.

Nothing of it is rebuilt here: data set, network, loaders, optimiser and steps are those of a run. Left out are only
validation images and checkpoints, which are not part of a step.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.step import Site
from benchmarks.gpu.steps.gauges import Pace, Watched, synchronizer
from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import CheckpointStore, TrainingState
from marquee.training.core.config import merge_config
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_device
from marquee.training.core.loop import Interrupted
from marquee.training.core.progress import Progress
from marquee.training.core.records import read_data
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import Network, task_of
from marquee.training.tasks.image_classification.config import ImageRunConfig

Tensors = tuple[torch.Tensor, ...]

_OF_A_CLASS = 4
"""Images of each class that the normalisation is computed from: here it need not be good, but quick."""


def photo_config(site: Site, **sections: Mapping[str, Any]) -> ImageRunConfig:
    """The configuration of a run on photographs, in bf16 and channels_last.

    Args:
        site: its device is that of the run.
        sections: fields to change by part, such as ``loop={"workers": 4}``.
    """
    base: dict[str, dict[str, Any]] = {
        "split": {"val": 0.02, "test": 0.0},
        "image": {"size": 224 if site.full else 64, "channels": "rgb"},
        "model": {"dropout": 0.0},
        "loop": {"precision": "bf16", "device": site.device, "patience": 0, "cache": "none"},
    }
    for part, fields in sections.items():
        base[part] = {**base.get(part, {}), **fields}
    return merge_config(ImageRunConfig(), base)


def passes_for(steps: int, batch: int, images: int) -> int:
    """Passes over so few images that make an epoch of at least ``steps`` steps of ``batch`` images."""
    return math.ceil(steps / max(1, images // batch))


def read_photographs(config: ImageRunConfig, folder: Path) -> Any:
    """The manifest of a folder of photographs, as a run makes it."""
    return read_data(config, folder.absolute(), Progress(quiet=True))[0]


def create_network(config: ImageRunConfig, manifest: Any) -> Network:
    """The network of a run."""
    chosen = [
        record
        for label in manifest.labels
        for record in [record for record in manifest.split("train") if record.label == label][:_OF_A_CLASS]
    ]
    network: Network = task_of(config).build(config, replace(manifest, records=tuple(chosen)))
    return network


class OurLoop:
    """A run of the project's own trainer.

    Args:
        config: of the run.
        manifest: of its photographs.
        network: is trained on, wherever it stands.
        folder: of the run; the cache of decoded images is written to it.
    """

    def __init__(self, config: ImageRunConfig, manifest: Any, network: Network, folder: Path) -> None:
        self.device = resolve_device(config.loop.device)
        self._batch_size, self._size = config.loop.batch_size, config.image.size
        network.model.zero_grad()  # a step that ran out of memory leaves its gradients
        context = RunContext(folder=RunFolder(folder), device=self.device, progress=Progress(quiet=True))
        self._trainer = build_trainer(config, manifest, network, context, cache=True)
        self._trainer.store = _NoCheckpoints(folder)
        self._trainer.val_loader = [self.batch(2)]
        self._loader, self._state = self._trainer.train_loader, TrainingState()

    def batch(self, images: int) -> Tensors:
        """A batch of noise on the device: pixels, uint8 (N, size, size, 3), and labels, int64 (N,), all of class 0."""
        shape = (images, self._size, self._size, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        return pixels, torch.zeros(images, dtype=torch.int64, device=self.device)

    def train(self, skip: int, count: int) -> Pace:
        """The pace of ``count`` steps on photographs, after ``skip`` steps."""
        return self._fit(self._loader, skip, count)

    def train_on_noise(self, skip: int, count: int) -> Pace:
        """The same on one batch that lies on the device already: what is left of a step without its loader."""
        return self._fit([self.batch(self._batch_size)] * (skip + count), skip, count)

    def load(self, skip: int, count: int) -> Pace:
        """The pace of the loader alone."""
        self._begin(skip + count)
        watched = Watched(self._loader, skip, count, lambda: None)
        for _ in watched:
            pass
        self._state = replace(self._state, epoch=self._state.epoch + 1)
        return watched.pace

    def _fit(self, batches: Iterable[Any], skip: int, count: int) -> Pace:
        """The last steps of one more epoch: it is begun as a run is resumed in the middle of it."""
        trainer, state = self._trainer, self._begin(skip + count)
        watched = Watched(batches, skip, count, synchronizer(self.device))
        trainer.train_loader = watched
        trainer.config = replace(trainer.config, loop=replace(trainer.config.loop, epochs=state.epoch + 1))
        try:
            self._state = replace(trainer.fit(state), finished=False, sums={})
        except Interrupted as error:
            raise KeyboardInterrupt from error  # ends the whole step
        return watched.pace

    def _begin(self, steps: int) -> TrainingState:
        sampler = self._trainer.sampler
        if steps > len(sampler):
            raise ValueError(f"{steps} steps, but an epoch has {len(sampler)}; raise loop.passes")
        sampler.epoch, sampler.start = self._state.epoch, len(sampler) - steps
        return replace(self._state, batch=sampler.start)


class _NoCheckpoints(CheckpointStore):
    """Saves nothing."""

    def save(self, *_: Any) -> Path:
        return self.folder
