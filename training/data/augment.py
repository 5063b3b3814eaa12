"""Random variation of training images, from the decoder that serving uses to the size that serving uses."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from handlers.images import prepare
from handlers.spec import ImageSpec
from training.config import AugmentConfig

_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def create_augmentation(
    config: AugmentConfig, spec: ImageSpec, fill: Sequence[float]
) -> Callable[[Image.Image], torch.Tensor]:
    """Builds the augmentation.

    Args:
        config: kinds and strengths.
        spec: size, channels and filter of the served preprocessing.
        fill: colour of corners that a rotation uncovers, per channel in 0..1 (the data's mean is least surprising).

    Returns:
        A function of a Pillow image, as :func:`handlers.images.decode` gives, to uint8 (crop, crop, channels). It
        draws from torch's global random state.
    """
    steps: list[torch.nn.Module] = [
        v2.RandomHorizontalFlip(config.horizontal_flip),
        v2.RandomVerticalFlip(config.vertical_flip),
    ]
    if config.rotation or config.zoom:
        steps.append(
            v2.RandomAffine(
                degrees=config.rotation,
                scale=(1 - config.zoom, 1 + config.zoom),
                interpolation=InterpolationMode.BILINEAR,
                fill=[round(value * 255) for value in fill],
            )
        )
    if config.color:
        # A grey image has no saturation and no hue.
        of_colors = {"saturation": config.color, "hue": config.color / 5 / 2} if spec.channels == 3 else {}
        steps.append(v2.ColorJitter(brightness=config.color, contrast=config.color, **of_colors))
    if config.erasing:
        steps.append(v2.RandomErasing(config.erasing))
    vary = v2.Compose(steps)
    crop = _random_crop(config, spec)

    def augment(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = vary(crop(image))
        return pixels.permute(1, 2, 0).contiguous()  # (C, H, W) -> (H, W, C)

    return augment


def _random_crop(config: AugmentConfig, spec: ImageSpec) -> Callable[[Image.Image], torch.Tensor]:
    """A random crop at the model's size, as uint8 (channels, crop, crop)."""
    if config.crop_scale >= 1:
        return lambda image: torch.from_numpy(prepare(image, spec).copy()).permute(2, 0, 1)
    crop = v2.RandomResizedCrop(
        spec.crop,
        scale=(config.crop_scale, 1.0),
        ratio=(1 / config.crop_ratio, config.crop_ratio),
        interpolation=_MODES[spec.interpolation],
    )
    # On the Pillow image: its filter is the one that serving resizes with.
    crop_to_tensor: Callable[[Image.Image], torch.Tensor] = v2.Compose([crop, v2.PILToTensor()])
    return crop_to_tensor
