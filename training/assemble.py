"""From a configuration and a manifest to everything that trains: network, preprocessing, caches, trainer."""

import logging
from dataclasses import dataclass, replace

import torch

from marquee.handlers.spec import ImageSpec
from marquee.training.checkpoint import CheckpointStore
from marquee.training.config import RunConfig
from marquee.training.context import RunContext
from marquee.training.data.augment import Augmentation, crop_source
from marquee.training.data.cache import AUTO_BYTES, UNLIMITED, ImageCache, build_cache, decoded_bytes
from marquee.training.data.loading import (
    BatchPlan,
    EvaluationImages,
    TrainingImages,
    evaluation_loader,
    resolve_workers,
    training_loader,
)
from marquee.training.data.manifest import Manifest
from marquee.training.data.mixing import Mixing
from marquee.training.data.resizing import ProgressiveResizing
from marquee.training.data.statistics import channel_statistics
from marquee.training.device import resolve_precision
from marquee.training.ema import WeightAverage
from marquee.training.errors import TrainingError
from marquee.training.loop import Trainer
from marquee.training.losses import create_loss, one_logit
from marquee.training.metrics_log import MetricsLog
from marquee.training.models import (
    Classifier,
    PretrainedInput,
    check_size,
    create_backbone,
    pretrained_channels,
    pretrained_input,
)
from marquee.training.optim import create_optimizer
from marquee.training.seeding import derive_seed

logger = logging.getLogger(__name__)


def build_model(config: RunConfig, manifest: Manifest) -> tuple[Classifier, ImageSpec]:
    """The network with its starting weights, and the preprocessing that belongs to it."""
    channels = _channels(config, manifest)
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    single = one_logit(config.loss, len(manifest.labels)) and not config.model.multi_label
    outputs = 1 if single else len(manifest.labels)
    backbone = create_backbone(config.model, config.image, outputs, channels, manifest.labels)
    for side in ProgressiveResizing(config.loop.progressive_resizing, config.image.size, 1).sides():
        check_size(backbone, f"--model.arch {config.model.arch}", side, channels)
    wanted = pretrained_input(config.model, backbone, channels) if config.model.pretrained != "none" else None
    image = _image_spec(config, wanted, channels)
    if wanted is None:
        mean, std = channel_statistics(manifest.split("train"), image)
        image = replace(image, mean=mean, std=std)
    return Classifier(backbone, image.mean, image.std), image


def _channels(config: RunConfig, manifest: Manifest) -> int:
    if config.image.channels != "auto":
        return 1 if config.image.channels == "grey" else 3
    if (channels := pretrained_channels(config.model)) is not None:
        return channels
    grey = all(record.mode in ("1", "L") or record.mode.startswith("I;16") for record in manifest.records)
    return 1 if grey else 3


def _image_spec(config: RunConfig, wanted: PretrainedInput | None, channels: int) -> ImageSpec:
    image = config.image
    interpolation: str = image.interpolation
    if interpolation == "auto":
        interpolation = wanted.interpolation if wanted else "bilinear"
    resize = image.resize or (round(image.size / wanted.crop_pct) if wanted else image.size)
    return ImageSpec(
        channels=channels,
        resize=max(resize, image.size),
        crop=image.size,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=wanted.mean if wanted else (0.0,) * channels,
        std=wanted.std if wanted else (1.0,) * channels,
        max_pixels=image.max_pixels,
        decode=image.decode,
    )


@dataclass(frozen=True)
class Caches:
    """Images that were decoded before, where that is wanted."""

    train: ImageCache | None = None
    val: ImageCache | None = None


def build_caches(
    config: RunConfig,
    manifest: Manifest,
    image: ImageSpec,
    context: RunContext,
) -> Caches:
    """Decodes all images once, where that is wanted; the main process does it for all."""
    world, progress = context.world, context.progress
    train, val = manifest.split("train"), manifest.split("val")
    # Without random crops an image is prepared as served, and shrinking it first would change its pixels.
    short_side = crop_source(config.augment, image) or UNLIMITED
    size = decoded_bytes(train, image, short_side) + decoded_bytes(val, image, None)
    if config.loop.cache == "none" or (config.loop.cache == "auto" and size > AUTO_BYTES):
        return Caches()
    folder = context.folder.cache
    failure: TrainingError | None = None
    no_room = False
    if world.is_main:
        try:
            build_cache(folder / "train", train, image, short_side, progress)
            build_cache(folder / "val", val, image, None, progress)
        except TrainingError as error:
            failure = error
        except OSError as error:
            if config.loop.cache == "decoded":
                failure = TrainingError(f"{folder}: {error.strerror or error}; make room, or use --loop.cache none")
            else:
                no_room = True
                logger.info(f"{folder}: {error.strerror or error}; images are decoded again every epoch")
    if world.any(failure is not None):
        raise failure or TrainingError("the main process could not decode the images; its message says why")
    if world.any(no_room):
        return Caches()
    return Caches(ImageCache(folder / "train"), ImageCache(folder / "val"))


def build_trainer(
    config: RunConfig,
    manifest: Manifest,
    model: Classifier,
    image: ImageSpec,
    context: RunContext,
    caches: Caches = Caches(),
) -> Trainer:
    """Everything around ``model`` that the configuration asks for; it writes nothing, and its log is nowhere."""
    device, world = context.device, context.world
    loop, labels, multi_label = config.loop, manifest.labels, config.model.multi_label
    precision = resolve_precision(loop.precision, device)
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    train_records, val_records = manifest.split("train"), manifest.split("val")
    workers = resolve_workers(loop.workers, len(train_records))
    augment = Augmentation(config.augment, image, image.mean)
    plan = BatchPlan(len(train_records), loop.batch_size, loop.seed, world.rank, world.size)
    pin = device.type == "cuda"
    train_images = TrainingImages(
        train_records, labels, image, augment, loop.seed, caches.train, multi_label, augment.short_side
    )
    val_images = EvaluationImages(val_records[world.rank :: world.size], labels, image, caches.val, multi_label)
    return Trainer(
        config=config,
        model=model,
        average=WeightAverage(model, loop.ema) if loop.ema else None,
        optimizer=create_optimizer(model, config.optimizer, device),
        loss=create_loss(config.loss, multi_label).to(device),
        resizing=ProgressiveResizing(loop.progressive_resizing, image.crop, loop.epochs * len(plan)),
        mixing=Mixing(config.augment, len(labels)),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        plan=plan,
        train_loader=training_loader(train_images, plan, workers, pin),
        # Reading the cache is no work, and a process that is forked now would make the first steps copy all memory.
        val_loader=evaluation_loader(val_images, 64, 0 if caches.val else workers, pin),
        device=device,
        precision=precision,
        world=world,
        store=CheckpointStore(context.folder.checkpoints, config.checkpoint.keep),
        log=MetricsLog(None, 0),
        progress=context.progress,
    )
