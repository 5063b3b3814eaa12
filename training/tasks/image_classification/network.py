"""Builds the network of a configuration and a manifest, and the preprocessing that belongs to it."""

from dataclasses import replace

import torch

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.seeding import derive_seed
from marquee.training.tasks.image_classification.config import ImageConfig, ImageRunConfig, window_of
from marquee.training.tasks.image_classification.data.manifest import Manifest
from marquee.training.tasks.image_classification.data.normalisation import channel_statistics
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing
from marquee.training.tasks.image_classification.data.windowing import resolve_window
from marquee.training.tasks.image_classification.models import (
    Classifier,
    PretrainedInput,
    check_size,
    create_backbone,
    pretrained_channels,
    pretrained_input,
)


def build_network(config: ImageRunConfig, manifest: Manifest, outputs: int) -> tuple[Classifier, ImageSpec]:
    """The network with its initial weights, and the preprocessing that belongs to it.

    Args:
        config: the run's configuration.
        manifest: the run's manifest.
        outputs: number of logits of the network.
    """
    config = resolve_window(config, manifest)
    channels = _channels(config, manifest)
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    backbone = create_backbone(config.model, config.image, outputs, channels, manifest.labels)
    for side in ProgressiveResizing(config.loop.progressive_resizing, config.image.size, 1).sides():
        check_size(backbone, f"--model.arch {config.model.arch}", side, channels)
    expected = pretrained_input(config.model, backbone, channels) if config.model.pretrained != "none" else None
    image = _image_spec(config, expected, channels)
    if expected is None:
        mean, std = channel_statistics(manifest.split("train"), image)
        image = replace(image, mean=mean, std=std)
    return Classifier(backbone, image.mean, image.std), image


def _channels(config: ImageRunConfig, manifest: Manifest) -> int:
    if config.image.channels != "auto":
        return 1 if config.image.channels == "grey" else 3
    if (channels := pretrained_channels(config.model)) is not None:
        return channels
    grey = all(record.mode in ("1", "L", "I", "F") or record.mode.startswith("I;16") for record in manifest.records)
    return 1 if grey else 3


def resize_of(image: ImageConfig, crop_pct: float | None) -> int:
    """Side of the resized image before the centre crop.

    Args:
        image: the settings.
        crop_pct: the share of it that pretrained weights expect in the crop; None: all of it.
    """
    if image.resize:
        return image.resize
    # The whole image is to be seen when it is squashed or padded.
    return max(image.size, round(image.size / crop_pct)) if crop_pct and image.fit == "crop" else image.size


def _image_spec(config: ImageRunConfig, expected: PretrainedInput | None, channels: int) -> ImageSpec:
    image = config.image
    interpolation: str = image.interpolation
    if interpolation == "auto":
        interpolation = expected.interpolation if expected else "bilinear"
    return ImageSpec(
        channels=channels,
        resize=resize_of(image, expected.crop_pct if expected else None),
        crop=image.size,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=expected.mean if expected else (0.0,) * channels,
        std=expected.std if expected else (1.0,) * channels,
        max_pixels=image.max_pixels,
        decode=image.decode,
        background=image.background,
        fit=image.fit,
        window=None if image.window == "none" else window_of(image.window),
        profile=image.profile,
        reading=image.reading,
    )
