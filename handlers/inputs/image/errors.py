"""What may be wrong with an image."""

from collections.abc import Mapping
from typing import ClassVar

from ...core.errors import InputError

STATUS_BY_CODE = {
    "not_an_image": 400,
    "corrupt_image": 400,
    "unsupported_image": 400,
    "bad_image_data": 400,
    "too_many_pixels": 413,
}
"""Error code of an image -> HTTP status."""


class ImageError(InputError):
    """One input cannot be turned into pixels; ``code`` is a key of :data:`STATUS_BY_CODE` or of the general ones."""

    statuses: ClassVar[Mapping[str, int]] = {**InputError.statuses, **STATUS_BY_CODE}
