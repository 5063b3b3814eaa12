"""A plain training loop of timm's parts, with the settings of the project's run: what its pace is compared with.

After https://github.com/huggingface/pytorch-image-models/blob/main/train.py: create_dataset, create_loader with its
prefetcher, create_optimizer_v2, autocast in bf16 around network and loss, channels_last. As there, no step waits for
its loss.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader  # type: ignore[attr-defined]
from timm.loss import LabelSmoothingCrossEntropy  # type: ignore[attr-defined]
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn

from benchmarks.gpu.steps.gauges import Pace, Watched, synchronizer
from marquee.training.tasks.image_classification.config import ImageRunConfig


class PlainLoop:
    """timm's loop.

    Args:
        config: of the project's run.
        folder: of its photographs.
        chosen: the photographs that the run trains on.
        device: of the run.
    """

    def __init__(self, config: ImageRunConfig, folder: Path, chosen: Sequence[str], device: torch.device) -> None:
        self._config, self._device, paths = config, device, set(chosen)
        self._dataset: Any = create_dataset("", root=str(folder), is_training=True)
        self._samples = [sample for sample in self._dataset.reader.samples if sample[0] in paths]
        model: Any = timm.create_model(config.model.arch, num_classes=len(self._dataset.reader.class_to_idx))
        self._model: nn.Module = model.to(device=device, memory_format=torch.channels_last).train()
        optimizer = config.optimizer
        self._optimizer: torch.optim.Optimizer = create_optimizer_v2(
            self._model, opt=optimizer.name, lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=True
        )
        self._loss = LabelSmoothingCrossEntropy(config.loss.label_smoothing)  # type: ignore[no-untyped-call]
        self._loader: Any = None

    def train(self, skip: int, count: int) -> Pace:
        """The pace of ``count`` steps on photographs, after ``skip`` steps; both as in the first call."""
        if self._loader is None:
            self._loader = self._create_loader(skip + count)
        return self._fit(self._loader, skip, count)

    def train_on_noise(self, skip: int, count: int) -> Pace:
        """The same on one batch that lies on the device already."""
        images, size = self._config.loop.batch_size, self._config.image.size
        pixels = torch.randn(images, 3, size, size, device=self._device)
        labels = torch.zeros(images, dtype=torch.int64, device=self._device)
        return self._fit([(pixels, labels)] * (skip + count), skip, count)

    def _fit(self, batches: Iterable[Any], skip: int, count: int) -> Pace:
        watched = Watched(batches, skip, count, synchronizer(self._device))
        for pixels, labels in watched:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self._device.type, torch.bfloat16):
                loss = self._loss(self._model(pixels), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.optimizer.clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return watched.pace

    def _create_loader(self, batches: int) -> Any:
        """One epoch of so many batches, however few photographs there are."""
        config, images = self._config, batches * self._config.loop.batch_size
        repeated = self._samples * (images // len(self._samples) + 1)
        self._dataset.reader.samples = repeated[:images]
        augment = config.augment
        return create_loader(
            self._dataset,
            input_size=(3, config.image.size, config.image.size),
            batch_size=config.loop.batch_size,
            is_training=True,
            scale=(augment.crop_scale, 1.0),
            ratio=(1 / augment.crop_ratio, augment.crop_ratio),
            hflip=augment.horizontal_flip,
            color_jitter=None,  # type: ignore[arg-type]
            interpolation="bilinear",
            num_workers=config.loop.workers,
            persistent_workers=config.loop.workers > 0,
            pin_memory=self._device.type == "cuda",
            device=self._device,
        )
