"""Random augmentation of training images, with the decoder and the image size of serving."""

import math
from collections.abc import Sequence

import torch
from PIL import Image

from marquee.handlers.inputs.image.decode import framed, prepare
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.tasks.image_classification.config import AugmentConfig


class Augmentation:
    """Augments one image; it draws from torch's global random state.

    A class instead of a closure: loader processes that are not forked receive it by pickle.

    Args:
        config: kinds and strengths.
        spec: size, channels and filter of the served preprocessing.
        fill: colour of corners that a rotation uncovers, per channel in 0..1 (such as the mean of the data).
    """

    def __init__(self, config: AugmentConfig, spec: ImageSpec, fill: Sequence[float]) -> None:
        from torchvision.transforms import v2  # takes seconds to import, and only training needs it

        self._spec = spec
        self.short_side = crop_source(config, spec)
        """See :func:`crop_source`."""
        self._to_tensor = v2.functional.pil_to_tensor
        self._crop = _random_crop(config, spec)
        self._vary = v2.Compose(_variations(config, spec, fill) or [v2.Identity()])

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """A Pillow image, as the served decoder gives it -> uint8 (crop, crop, channels)."""
        # A random crop works on the Pillow image: its filter is the one that serving resizes with.
        pixels = self._to_tensor(self._crop(self._framed(image))) if self._crop else self._as_served(image)
        varied: torch.Tensor = self._vary(pixels)
        return varied.permute(1, 2, 0).contiguous()  # (C, H, W) -> (H, W, C)

    def _framed(self, image: Image.Image) -> Image.Image:
        return image if self.short_side is None else framed(image, self.short_side, self._spec)

    def _as_served(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(prepare(image, self._spec).copy()).permute(2, 0, 1)


def crop_source(config: AugmentConfig, spec: ImageSpec) -> int | None:
    """The short side in pixels that an image may be shrunk to before its random crops, so that no crop is enlarged.

    The smallest crop is then as large as the input. None: there are no random crops, images are prepared as served.
    """
    if config.crop_scale >= 1:
        return None
    return max(spec.resize, math.ceil(spec.crop / math.sqrt(config.crop_scale)))


def _variations(config: AugmentConfig, spec: ImageSpec, fill: Sequence[float]) -> list[torch.nn.Module]:
    from torchvision.transforms import InterpolationMode, v2

    steps: list[torch.nn.Module] = []
    if config.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
    if config.vertical_flip:
        steps.append(v2.RandomVerticalFlip(config.vertical_flip))
    if config.policy != "none":
        steps.append(v2.TrivialAugmentWide() if config.policy == "trivial" else v2.RandAugment())
    if config.shift and not (config.rotation or config.zoom):
        # Whole pixels: nothing is resampled.
        steps.append(v2.RandomCrop(spec.crop, padding=config.shift, fill=_levels(fill)))
    if config.rotation or config.zoom:
        steps.append(
            v2.RandomAffine(
                degrees=config.rotation,
                translate=(config.shift / spec.crop,) * 2 if config.shift else None,
                scale=(1 - config.zoom, 1 + config.zoom),
                interpolation=InterpolationMode.BILINEAR,
                fill=_levels(fill),
            )
        )
    if config.color:
        # A grey image has no saturation and no hue. The range of hue is half as wide, and its changes are more visible.
        color_changes = {"saturation": config.color, "hue": config.color / 10} if spec.channels == 3 else {}
        steps.append(v2.ColorJitter(brightness=config.color, contrast=config.color, **color_changes))
    if config.erasing:
        steps.append(v2.RandomErasing(config.erasing))
    return steps


def _levels(fill: Sequence[float]) -> list[int]:
    return [round(value * 255) for value in fill]


def _random_crop(config: AugmentConfig, spec: ImageSpec) -> torch.nn.Module | None:
    from torchvision.transforms import InterpolationMode, v2

    if config.crop_scale >= 1:
        return None
    crop: torch.nn.Module = v2.RandomResizedCrop(
        spec.crop,
        scale=(config.crop_scale, 1.0),
        ratio=(1 / config.crop_ratio, config.crop_ratio),
        interpolation=InterpolationMode(spec.interpolation),
    )
    return crop
