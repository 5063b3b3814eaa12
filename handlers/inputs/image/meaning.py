"""Decoded samples -> a picture of 8 bits, by what the file says of its alpha, depth and photometric interpretation.

Pillow's mode says these things too, but not always what the file says (``ImageSpec.reading``): it shows the unused
fourth byte of a BMP or TIFF as alpha, compares the transparent colour of a PNG with samples of another depth, and takes
12 bits, or 16 bits with WhiteIsZero, for 16 bits from black to white.
"""

import io
from dataclasses import dataclass

from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from .alpha import alpha_of, colour_key, composed, is_premultiplied, straight
from .errors import ImageError
from .profile import to_srgb
from .samples import Again, DeepSamples, deep_colour, deep_grey, raw_mode
from .spec import ImageSpec
from .tiff import TiffFile


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What has to be known of a file before Pillow loads it and forgets it."""

    data: bytes = b""
    """The file, for what is decoded twice."""
    raw: str = ""
    """See :func:`marquee.handlers.inputs.image.samples.raw_mode`."""
    is_deep: bool = False
    """Samples of more than 8 bits."""

    @classmethod
    def of(cls, image: Image.Image) -> "Stored":
        """Of an image that is opened; of one that is decoded already, nothing."""
        if not isinstance(image, ImageFile.ImageFile) or not isinstance(image.fp, io.BytesIO):
            return cls()
        raw = raw_mode(image)
        is_deep_png = isinstance(image, PngImagePlugin.PngImageFile) and raw.endswith(";16B")
        is_deep = image.samples.is_deep if isinstance(image, TiffFile) else is_deep_png
        return cls(data=image.fp.getvalue(), raw=raw, is_deep=is_deep)

    @property
    def bits(self) -> int:
        """Of a sample of a PNG."""
        name, _, bits = self.raw.partition(";")
        return 1 if name == "1" else int(bits.rstrip("BLN")) if bits.rstrip("BLN").isdigit() else 8


def samples_of(image: Image.Image, stored: Stored, again: Again, colour: bool) -> DeepSamples | None:
    """The samples of a loaded image of more than 8 bits; None for any other.

    Args:
        image: loaded and upright.
        stored: what was known of it before.
        again: decodes it once more with other raw modes.
        colour: those of colour images, too, which have to be decoded twice.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return None
    return deep_grey(image) or (deep_colour(image, stored.raw, again) if colour else None)


def picture_of(image: Image.Image, stored: Stored, again: Again, spec: ImageSpec) -> Image.Image:
    """A loaded image as a person sees it, over ``spec.background``; 8 bits, of a mode that converts to the model's.

    Args:
        image: loaded and upright.
        stored: what was known of it before.
        again: decodes it once more with other raw modes.
        spec: window, profile and background.

    Raises:
        ImageError: ``unsupported_image``.
    """
    deep = samples_of(image, stored, again, colour=_needs_all_bits(image, spec))
    if deep is not None:
        alpha = deep.alpha
        colour = deep.to_8_bits(spec.window)
    elif image.mode in ("I", "F"):
        raise ImageError("unsupported_image", "32-bit samples have no defined white; save the image with 8 or 16 bits")
    else:
        alpha, colour = alpha_of(image), image
    if alpha is None and isinstance(image, ImageFile.ImageFile):
        alpha = colour_key(image, stored.bits, None if deep is None else deep.values)
    if deep is None and (alpha is not None or image.mode in ("RGBA", "LA")):
        image.info.pop("transparency", None)  # it is in alpha now
        colour = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        if isinstance(image, TiffFile) and image.samples.is_grey and image.samples.is_inverted:
            colour = ImageOps.invert(colour)
    if alpha is not None and is_premultiplied(image):
        colour = straight(colour, alpha)
    if spec.profile == "srgb":
        colour = to_srgb(_plain(colour), image.info.get("icc_profile"))
    return colour if alpha is None else composed(colour, alpha, spec.background)


def _needs_all_bits(image: Image.Image, spec: ImageSpec) -> bool:
    """Whether the higher byte of 16-bit colour, which Pillow keeps, is not enough."""
    if spec.window is not None:
        return True
    if isinstance(image, TiffFile):
        return image.samples.is_deep and image.samples.white not in (None, 0xFFFF)
    return isinstance(image, PngImagePlugin.PngImageFile) and image.mode == "RGB" and "transparency" in image.info


def _plain(image: Image.Image) -> Image.Image:
    """In a mode that a profile may be for."""
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
