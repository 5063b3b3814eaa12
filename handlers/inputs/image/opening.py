"""The content of an image file -> an image whose header is read, or the reason why not, by name."""

import io

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ...core.errors import InputError
from . import jpeg, png
from .containers import AVIF, HEIC, HEIC_ADVICE, JPEG, PNG, TIFF, foreign, format_of
from .errors import ImageError
from .heic import open_heic
from .spec import ImageSpec
from .tiff import TiffFile, unsupported

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3, which a server may have
    AvifImagePlugin = None  # type: ignore[assignment]

# Imported by name: Pillow opens only formats whose plugin is loaded, and loading all of them costs every worker.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,  # with MPO, what many phones write under the name of JPEG
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
    )
) + ((AVIF,) if AvifImagePlugin and AvifImagePlugin.SUPPORTED else ())
"""Formats that are opened, by Pillow's names. Others stay closed: each decoder is attack surface."""

if AvifImagePlugin:
    # Several images of a batch are decoded at once, and every worker has its share of the cores.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def open_header(data: bytes | bytearray | memoryview, spec: ImageSpec) -> ImageFile.ImageFile:
    """Reads an image file's header.

    Raises:
        ImageError: ``not_an_image`` or ``unsupported_image``.
    """
    name = format_of(data)
    try:
        return _open(name, data, spec)
    except (MemoryError, InputError):
        raise
    except Exception as error:
        # Pillow's plugins raise anything from SyntaxError to struct.error for damaged data.
        raise _refusal(name, data, error) from error


def _open(name: str | None, data: bytes | bytearray | memoryview, spec: ImageSpec) -> ImageFile.ImageFile:
    if name == PNG:
        image = _pillow(png.essential(data))
        if spec.profile != "ignore":
            image.info["icc_profile"] = png.profile(data)
        return image
    if name == TIFF and spec.reading == "file":
        return TiffFile(io.BytesIO(data))
    if name == JPEG:
        return _open_jpeg(data)
    if name == AVIF and AVIF not in FORMATS:
        raise ImageError("not_an_image", "AVIF, which this installation of Pillow cannot open; send JPEG or PNG")
    if name == HEIC:
        if (image_file := open_heic(data)) is None:
            raise ImageError("not_an_image", HEIC_ADVICE)
        return image_file
    return _pillow(data)


def _open_jpeg(data: bytes | bytearray | memoryview) -> ImageFile.ImageFile:
    """Opens a JPEG file; where its metadata is damaged, without it."""
    try:
        return _pillow(data)
    except MemoryError:
        raise
    except Exception:
        if (kind := jpeg.kind(data)) is not None:
            raise ImageError("unsupported_image", f"{kind}; save it as 8-bit JPEG or as PNG") from None
        try:
            return _pillow(jpeg.without_metadata(data, keep_readable=True))
        except MemoryError:
            raise
        except Exception:
            return _pillow(jpeg.without_metadata(data, keep_readable=False))


def _pillow(data: bytes | bytearray | memoryview) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _refusal(name: str | None, data: bytes | bytearray | memoryview, error: Exception) -> ImageError:
    if name == TIFF:
        try:
            with TiffFile(io.BytesIO(data)) as image:
                return unsupported(f"{image.samples.kind}, which this model, of an earlier version, does not read")
        except InputError as by_name:
            return ImageError("unsupported_image", by_name.message)
        except Exception:  # noqa: S110 - damaged: nothing more is known of it
            pass
        if bytes(data[:4]) == b"MM\0+":
            return unsupported("BigTIFF in big-endian byte order")
    if isinstance(error, OSError) and str(error).startswith("Unsupported "):  # as Pillow calls kinds of BMP
        return ImageError("unsupported_image", f"{error}; save the image as PNG")
    if name is not None:
        return ImageError("not_an_image", f"it begins as {name} does, but its header is damaged or not complete")
    if (known := foreign(data)) is not None:
        return ImageError("not_an_image", known)
    return ImageError("not_an_image", f"not an image of a known format ({', '.join(FORMATS)})")
