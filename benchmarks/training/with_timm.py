"""The timm contender: one process of timm's train.py, put together from timm's own parts and defaults.

After https://github.com/huggingface/pytorch-image-models/blob/main/train.py: create_dataset, create_loader with its
prefetcher, create_optimizer_v2, label smoothing, no AMP and the default memory layout unless asked for. Colour jitter
and random interpolation are off, since no other contender does that work.

Example: python -m benchmarks.training.with_timm --data .benchmarks/photos --amp --channels-last

The last line of stdout is one JSON object.
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from timm.data import create_dataset, create_loader  # type: ignore[attr-defined]
from timm.loss import LabelSmoothingCrossEntropy  # type: ignore[attr-defined]
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.utils import random_seed  # type: ignore[attr-defined]

from benchmarks.training.runs import Loop, Pace
from marquee.commands.cli import run


@dataclass(frozen=True, kw_only=True)
class WithTimm(Loop):
    """Arguments; the last two are train.py's ``--amp --amp-dtype bfloat16`` and ``--channels-last``."""

    data: Path
    """Folder with train/ and class folders in it."""
    amp: bool = False
    """Automatic mixed precision in bfloat16, which needs no loss scaling."""
    channels_last: bool = False
    """NHWC memory layout."""


def train(settings: WithTimm) -> dict[str, Any]:
    """Trains; returns ``epochs``."""
    random_seed(0)  # type: ignore[no-untyped-call]
    device = torch.device("cpu")
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    dataset = create_dataset("", root=str(settings.data), split="train", is_training=True)
    loader = create_loader(
        dataset,
        input_size=(3, settings.size, settings.size),
        batch_size=settings.batch_size,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]
        interpolation="bilinear",
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        device=device,
    )
    model = timm.create_model(settings.arch, num_classes=len(dataset.reader.class_to_idx))
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
    loss = LabelSmoothingCrossEntropy(0.1)  # type: ignore[no-untyped-call]
    pace = Pace()
    for _ in range(settings.epochs):
        model.train()
        optimizer.zero_grad()
        for image, target in pace.batches(loader):
            image = image.contiguous(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16) if settings.amp else nullcontext():
                value = loss(model(image), target)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            value.item()
    return {"epochs": pace.epochs}


def main() -> None:
    """Entry point."""
    print(json.dumps(train(tyro.cli(WithTimm, description=__doc__))))


if __name__ == "__main__":
    run(main)
