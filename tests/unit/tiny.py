"""A data set and a configuration of which a whole run takes a second or two."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import TrainingState
from marquee.training.core.config import OptimizerConfig
from marquee.training.core.context import RunContext
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.progress import Progress
from marquee.training.core.records import prepare_folder
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import Network, task_of
from marquee.training.tasks.image_classification.config import (
    ClassificationExportConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    LossConfig,
    ModelConfig,
)
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record, one_name, several_names
from marquee.training.tasks.image_classification.models import Classifier

PLAIN = LossConfig(label_smoothing=0)


def write_photos(folder: Path) -> list[Path]:
    """Twelve colour images of 64 pixels: smooth ones and rough ones."""
    generator, paths = np.random.default_rng(0), []
    for number in range(12):
        pixels = generator.integers(0, 256, (4 + 4 * number,) * 2 + (3,), np.uint8)
        paths.append(folder / f"{number}.png")
        Image.fromarray(pixels).resize((64, 64)).save(paths[-1])
    return paths


def with_few_to_train(digits: Path, folder: Path) -> Path:
    """The digits with 20 training images of each class, and all their test images."""
    shutil.copytree(digits / "test", folder / "test")
    for label in sorted((digits / "train").iterdir()):
        (folder / "train" / label.name).mkdir(parents=True)
        for path in sorted(label.iterdir())[:20]:
            shutil.copyfile(path, folder / "train" / label.name / path.name)
    return folder


def build(config: ImageRunConfig, manifest: Manifest) -> tuple[Classifier, ImageSpec]:
    """The network that a run starts with, and its input."""
    network = task_of(config).build(config, manifest)
    return network.model, network.input


def train_without_export(config: ImageRunConfig, manifest: Manifest, run: Path) -> None:
    """The run folder of a training that was ended between its last epoch and its export."""
    quiet = Progress(quiet=True)
    prepare_folder(config, manifest, run, False, ProcessGroup(), quiet)
    model, image = build(config, manifest)
    context = RunContext(folder=RunFolder(run), device=torch.device("cpu"), progress=quiet)
    trainer = build_trainer(config, manifest, Network(model=model, input=image), context)
    trainer.log = MetricsLog(run, 0)
    trainer.fit(TrainingState())
    trainer.log.close()


def manifest_of(photos: Sequence[Path], labels: Sequence[str], multi_label: bool = False) -> Manifest:
    """Every third image validates; labels take turns within both."""
    records = []
    for number, path in enumerate(photos):
        split, turn = ("val", number // 3) if number % 3 == 2 else ("train", number // 3 * 2 + number % 3)
        records.append(Record(str(path), labels[turn % len(labels)], split, sha256_file(path), 64, 64, "RGB"))
    return Manifest(tuple(records), several_names if multi_label else one_name)


def settings(
    arch: str, loss: LossConfig = PLAIN, pretrained: str = "none", multi_label: bool = False, **optimizer: Any
) -> ImageRunConfig:
    """One epoch of one step."""
    return ImageRunConfig(
        image=ImageConfig(size=64),
        model=ModelConfig(arch=arch, pretrained=pretrained, multi_label=multi_label, dropout=0),
        loss=loss,
        optimizer=OptimizerConfig(warmup_epochs=0, **optimizer),
        loop=ImageLoopConfig(epochs=1, batch_size=32, workers=0, device="cpu", precision="fp32"),
        export=ClassificationExportConfig(unfamiliar=0),
    )
