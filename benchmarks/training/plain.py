"""The plain contender: a training loop in the style of torchvision's classification reference, in fp32.

After https://github.com/pytorch/vision/tree/main/references/classification: ImageFolder, Pillow, random resized crop
and flip, normalisation in the loader, default memory layout, DataLoader. Its loaders stay alive between epochs, as
those of the other contenders do.

Example: python -m benchmarks.training.plain --data .benchmarks/photos --arch resnet18 --epochs 2

DATA has train/ and, with --measure, val/ and test/. The last line of stdout is one JSON object.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import tyro
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.training.runs import Loop, Pace
from marquee.commands.cli import run

_TO_TENSOR = (transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@dataclass(frozen=True, kw_only=True)
class Plain(Loop):
    """Arguments; the defaults are the reference's, but for the batch's size and the schedule's length."""

    data: Path
    """Folder with train/ and class folders in it."""
    seed: int = 0
    """Of weights, order and augmentation."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with momentum 0.9; adamw: without decay of biases and norms."""
    lr: float = 0.1
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_epochs: float = 0.0
    """Linear warm-up."""
    weight_decay: float = 1e-4
    """Of the weights."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    clip_norm: float = 0.0
    """Largest norm of the gradients; 0: they are not clipped."""
    crop_scale: float = 0.08
    """Smallest share of the area that a random crop keeps."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    measure: bool = False
    """Report the test accuracy of the epoch with the best validation accuracy."""


def train(settings: Plain) -> dict[str, Any]:
    """Trains; returns ``epochs`` and, where it is asked for, the test ``accuracy``."""
    torch.manual_seed(settings.seed)
    loader = _training_loader(settings)
    model = timm.create_model(settings.arch, num_classes=len(loader.dataset.classes))  # type: ignore[attr-defined]
    loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    if settings.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(param_groups_weight_decay(model, settings.weight_decay), lr=settings.lr)
    schedule = _schedule(settings, optimizer, len(loader))
    pace, best, kept = Pace(), -1.0, model.state_dict()
    for _ in range(settings.epochs):
        model.train()
        for image, target in pace.batches(loader):
            output = model(image)
            optimizer.zero_grad()
            value = loss(output, target)
            value.backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            schedule.step()
            # The reference logs both of every step.
            value.item()
            (output.argmax(1) == target).sum().item()
        if settings.measure and (accuracy := _accuracy(settings, model, "val")) > best:
            best, kept = accuracy, copy.deepcopy(model.state_dict())
    if not settings.measure:
        return {"epochs": pace.epochs}
    model.load_state_dict(kept)
    return {"epochs": pace.epochs, "accuracy": _accuracy(settings, model, "test")}


def _training_loader(settings: Plain) -> DataLoader[Any]:
    crop = transforms.RandomResizedCrop(settings.size, scale=(settings.crop_scale, 1.0))
    vary = transforms.Compose([crop, transforms.RandomHorizontalFlip(settings.flip), *_TO_TENSOR])
    return DataLoader(
        datasets.ImageFolder(str(settings.data / "train"), vary),
        batch_size=settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
    )


def _schedule(settings: Plain, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up and cosine, a step at a time."""
    warmup, total = round(settings.warmup_epochs * steps), settings.epochs * steps
    floor = settings.min_lr / settings.lr

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup + 1) / max(1, total - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.inference_mode()
def _accuracy(settings: Plain, model: nn.Module, split: str) -> float:
    model.eval()
    size = settings.size
    still = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *_TO_TENSOR])
    images = datasets.ImageFolder(str(settings.data / split), still)
    right = [(model(image).argmax(1) == target).sum() for image, target in DataLoader(images, settings.batch_size)]
    return int(sum(right)) / len(images)


def main() -> None:
    """Entry point."""
    print(json.dumps(train(tyro.cli(Plain, description=__doc__))))


if __name__ == "__main__":
    run(main)
