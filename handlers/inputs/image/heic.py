"""HEIC files, where the package pillow-heif is installed (the extra ``heic``)."""

import io
from collections.abc import Callable

from PIL import ImageFile


def open_heic(data: bytes | bytearray | memoryview) -> ImageFile.ImageFile | None:
    """The primary image of a HEIC file, not decoded yet; None where nothing here can read it.

    Raises:
        SyntaxError: the file is damaged.
    """
    try:
        import pillow_heif
    except ImportError:
        return None
    create: Callable[[io.BytesIO], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return create(io.BytesIO(data))
