"""The square that a model sees of an image: resized and cropped in one resampling step."""

import numpy as np
from PIL import Image

from .spec import ImageSpec

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Resizes an image to a square of ``spec.resize`` as ``spec.fit`` says, and takes its centre.

    Only the part of the source that is seen is resampled, so a 1 x 10,000 strip costs no more than a square.

    Args:
        image: mode ``L`` or ``RGB``, from :func:`marquee.handlers.inputs.image.decode.decode`.
        spec: sizes, filter, fit, and what an image that is padded is padded with.

    Returns:
        uint8 array of shape (crop, crop, channels).
    """
    if spec.fit == "pad":
        shown = _padded(image, spec.crop, spec.crop / spec.resize, spec)
    else:
        width, height = image.size
        across, down = (min(image.size),) * 2 if spec.fit == "crop" else image.size  # what becomes ``resize`` pixels
        wide, high = across * spec.crop / spec.resize, down * spec.crop / spec.resize  # the centre, in source pixels
        left, top = (width - wide) / 2, (height - high) / 2
        # Rounding may put the far edge a hair outside of the image, which Pillow refuses.
        box = (left, top, min(left + wide, width), min(top + high, height))
        shown = image.resize((spec.crop, spec.crop), RESAMPLING[spec.interpolation], box=box)
    return np.asarray(shown, dtype=np.uint8).reshape(spec.crop, spec.crop, spec.channels)


def shrink(image: Image.Image, short_side: int, spec: ImageSpec) -> Image.Image:
    """``image`` with a short side of at most ``short_side`` pixels: what training crops from."""
    factor = short_side / min(image.size)
    if factor >= 1:
        return image
    width, height = image.size
    return image.resize(
        (max(short_side, round(width * factor)), max(short_side, round(height * factor))),
        RESAMPLING[spec.interpolation],
    )


def framed(image: Image.Image, side: int, spec: ImageSpec) -> Image.Image:
    """What random crops of training are taken from: the image itself, or the square that ``spec.fit`` makes of it.

    Args:
        image: mode ``L`` or ``RGB``.
        side: of the square; a smaller image is not enlarged.
        spec: fit, filter and background.
    """
    if spec.fit == "crop":
        return image
    side = min(side, max(image.size))
    if spec.fit == "pad":
        return _padded(image, side, 1.0, spec)
    return image.resize((side, side), RESAMPLING[spec.interpolation])


def hidden_share(width: int, height: int, spec: ImageSpec) -> float:
    """The share of an image's area that the model does not see."""
    centre = (spec.crop / spec.resize) ** 2
    if spec.fit == "crop":
        return 1 - centre * min(width, height) / max(width, height)
    if spec.fit == "squash":
        return 1 - centre
    seen = [min(1.0, max(width, height) * spec.crop / spec.resize / length) for length in (width, height)]
    return 1 - seen[0] * seen[1]


def _padded(image: Image.Image, side: int, centre: float, spec: ImageSpec) -> Image.Image:
    """The centre of the square around an image, ``centre`` of its side, as ``side`` pixels."""
    width, height = image.size
    square = max(image.size) * centre  # in source pixels
    wide, high = min(width, square), min(height, square)
    size = max(1, round(side * wide / square)), max(1, round(side * high / square))
    left, top = (width - wide) / 2, (height - high) / 2
    box = (left, top, min(left + wide, width), min(top + high, height))
    seen = image.resize(size, RESAMPLING[spec.interpolation], box=box)
    canvas = Image.new(image.mode, (side, side), spec.background if image.mode == "L" else (spec.background,) * 3)
    canvas.paste(seen, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas
