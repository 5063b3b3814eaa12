"""Transparency: where a file says that it is, and what is seen through it."""

from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile

from .tiff import TiffFile

WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The alpha of a loaded image of 8 bits a sample, as mode ``L``; None where it is opaque.

    Of a BMP, an alpha of 0 in every pixel is a byte that its writer left unused.
    """
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        alpha = image.getchannel("A" if image.mode[-1] == "A" else "a")
    elif image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
        alpha = image.convert("RGBA").getchannel("A")
    else:
        return None
    if isinstance(image, BmpImagePlugin.BmpImageFile) and alpha.getextrema() == (0, 0):
        return None
    return alpha


def colour_key(image: ImageFile.ImageFile, bits: int, samples: np.ndarray | None) -> Image.Image | None:
    """The alpha of a PNG that names one transparent colour, compared in the file's own depth.

    Args:
        image: loaded; grey or RGB.
        bits: of a sample in the file.
        samples: in the file's own values, of more than 8 bits; None: those of ``image``.
    """
    key: Any = image.info.get("transparency")
    if image.mode not in ("1", "L", "I;16", "RGB") or not isinstance(key, (int, tuple)):
        return None
    # Only the lowest bits of the key count, as many as a sample has. Of fewer than 8 bits Pillow has stretched the
    # samples, and the key of 1 bit, to 0 to 255.
    if bits == 1:
        wanted: Any = 255 if key else 0
    else:
        most = (1 << bits) - 1
        wanted = np.bitwise_and(key, most) * (255 // most if bits < 8 else 1)
    if samples is None:
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    matches = samples == wanted
    transparent = matches.all(axis=-1) if matches.ndim == 3 else matches
    return Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8))


def straight(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Grey that was multiplied by its alpha, without it."""
    grey, opacity = np.asarray(image).astype(np.float64), np.asarray(alpha)
    return Image.fromarray(np.clip(np.rint(grey * 255 / np.maximum(opacity, 1)), 0, 255).astype(np.uint8))


def composed(image: Image.Image, alpha: Image.Image, background: int) -> Image.Image:
    """``image``, of mode ``L`` or ``RGB``, over a grey level: mode ``RGB``."""
    rgba = image.convert("RGB")
    rgba.putalpha(alpha)
    canvas = Image.new("RGBA", rgba.size, (background,) * 3 + (255,))
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")


def is_premultiplied(image: Image.Image) -> bool:
    """Whether a loaded grey image's samples were multiplied by its alpha; Pillow undoes that of colour itself."""
    return isinstance(image, TiffFile) and image.samples.is_grey and image.samples.alpha == "premultiplied"
