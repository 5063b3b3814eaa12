"""The limit of an image's pixels, checked before any of them is read."""

from .errors import ImageError
from .spec import ImageSpec


def check_pixels(width: int, height: int, spec: ImageSpec) -> None:
    """Raises ImageError, ``too_many_pixels``, for more than ``spec.max_pixels``."""
    if width * height > spec.max_pixels:
        raise ImageError(
            "too_many_pixels", f"the image has {width} x {height} pixels; at most {spec.max_pixels} are accepted"
        )
