"""Embedded ICC profiles: colours of another space than sRGB, converted to it."""

import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Mode -> colour space that its profile must be for."""


def to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """``image`` in sRGB, mode ``RGB``; as it is where its profile is absent, damaged or for another kind of image.

    Args:
        image: mode ``L``, ``RGB`` or ``CMYK``.
        profile: the content of an ICC profile, or None.
    """
    if not isinstance(profile, bytes) or image.mode not in _SPACES:
        return image
    transform = _transform(profile, image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES[mode]:
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
