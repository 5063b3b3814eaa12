"""Samples of more than 8 bits: what they are in the file, and how they become 8 bits.

They come from PNG (16 bits) and TIFF (12, 16 and 32 bits); everything else that is opened has 8 bits, or is decoded to
them by its library.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from .errors import ImageError
from .tiff import TiffFile, other_byte, unsupported

_COLOURS = ("RGB", "RGBX", "RGBA", "R")
"""Raw modes, without their depth, of which both bytes can be fetched; R: the first of several planes."""

_AT_ONCE = 1 << 20
"""Samples that are converted at once, as numbers of 8 bytes."""

Again = Callable[[Callable[[str], str]], Image.Image]
"""Decodes a file once more, with other raw modes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepSamples:
    """The colour samples of an image, upright, as its file has them."""

    values: np.ndarray
    """(H, W) or (H, W, 3), in the file's own values."""
    white: int | None
    """The value that the file means by white; None where it does not say, and a window has to."""
    kind: str
    """What they are, for people."""
    is_inverted: bool = False
    """The largest value is black."""
    alpha: Image.Image | None = None
    """Mode ``L``; None: opaque, or still to be found by a transparent colour."""
    is_premultiplied: bool = False

    def to_8_bits(self, window: tuple[float, ...] | None) -> Image.Image:
        """The samples from black to white as 0 to 255, mode ``L`` or ``RGB``.

        Args:
            window: low and high, which become 0 and 255; None: the range of the file's depth, of which the highest
                8 bits remain.

        Raises:
            ImageError: ``unsupported_image``: neither the file nor a window says what is white.
        """
        if window is None and self.white is None:
            raise ImageError(
                "unsupported_image",
                f"{self.kind} have no defined white; save the image with 8 or 16 unsigned bits, or train with "
                "--image.window LOW,HIGH",
            )
        levels = np.empty(self.values.shape, np.uint8)
        rows = max(1, _AT_ONCE // max(1, self.values[0].size))
        for start in range(0, len(levels), rows):
            part = slice(start, start + rows)
            levels[part] = _windowed(self.values[part], window) if window else self._highest_bits(self.values[part])
        return Image.fromarray(np.subtract(255, levels, out=levels) if self.is_inverted else levels)

    def _highest_bits(self, values: np.ndarray) -> np.ndarray:
        white = self.white or 0xFFFF
        return np.asarray(np.minimum(values, white) >> (white.bit_length() - 8))


def _windowed(values: np.ndarray, window: tuple[float, ...]) -> np.ndarray:
    low, high = window
    finite = np.nan_to_num(values.astype(np.float64), nan=low)
    return np.asarray(np.rint((np.clip(finite, low, high) - low) * (255 / (high - low))))


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How Pillow is going to read the samples of an image that is not loaded yet, such as ``RGB;16B``."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def deep_grey(image: ImageFile.ImageFile) -> DeepSamples | None:
    """The samples of a loaded grey image of more than 8 bits; None for any other."""
    if isinstance(image, TiffFile):
        return _tiff_grey(image)
    if isinstance(image, PngImagePlugin.PngImageFile) and image.mode == "I;16":
        return DeepSamples(values=np.asarray(image), white=0xFFFF, kind="PNG with 16-bit grey samples")
    return None


def deep_colour(image: ImageFile.ImageFile, raw: str, again: Again) -> DeepSamples | None:
    """The samples of a loaded colour image of 16 bits; None for any other.

    Pillow has no mode for them and keeps the higher byte; the lower one is decoded on its own.

    Args:
        image: loaded.
        raw: its :func:`raw_mode`.
        again: decodes the file once more, upright, with other raw modes.

    Raises:
        ImageError: ``unsupported_image``: the lower byte cannot be had.
    """
    if raw == "LA;16B":
        pairs = np.asarray(again(lambda _: "RGBA"))  # four bytes: both of grey, both of alpha
        grey = pairs[..., 0].astype(np.uint16) << 8 | pairs[..., 1]
        return DeepSamples(
            values=grey, white=0xFFFF, kind="PNG with 16-bit grey samples", alpha=Image.fromarray(pairs[..., 2].copy())
        )
    if raw.partition(";")[0] not in _COLOURS or not other_byte(raw):
        return None
    tiff = image.samples if isinstance(image, TiffFile) else None
    if tiff and tiff.planar and tiff.compression != 1:
        raise unsupported(f"{tiff.kind} in compressed planes of their own")
    low = np.asarray(again(other_byte))
    values = np.asarray(image)[..., :3].astype(np.uint16) << 8 | low[..., :3]
    return DeepSamples(
        values=values,
        white=tiff.white if tiff else 0xFFFF,
        kind=tiff.kind if tiff else "PNG with 16-bit RGB samples",
        alpha=image.getchannel("A") if image.mode == "RGBA" else None,
    )


def _tiff_grey(image: TiffFile) -> DeepSamples | None:
    said = image.samples
    if not (said.is_grey and said.is_deep):
        return None
    pixels = np.asarray(image)
    alpha = None
    if image.mode == "RGBA":  # four bytes: both of grey, both of alpha
        high, low = (0, 1) if said.order == "B" else (1, 0)
        alpha = Image.fromarray(pixels[..., 2 + high].copy())
        pixels = pixels[..., high].astype(np.uint16) << 8 | pixels[..., low]
    return DeepSamples(
        values=np.ascontiguousarray(pixels).view(said.dtype),
        white=said.white,
        kind=said.kind,
        is_inverted=said.is_inverted,
        alpha=alpha,
        is_premultiplied=said.alpha == "premultiplied",
    )
