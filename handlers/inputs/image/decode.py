"""bytes -> uint8 pixels of the model's input size. The only implementation in the project.

The server, the golden samples, training's evaluation and (for decoding) training's augmentation all call it, so
what is served is what was measured.
"""

import io
import itertools
import sys
import warnings
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ...core.errors import InputError
from .errors import ImageError
from .spec import ImageSpec

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
)
"""Formats that are opened, by Pillow's names. Others stay closed: each decoder is attack surface."""

_NO_LIMITS = ImageSpec(channels=1, resize=1, crop=1, max_pixels=sys.maxsize, max_bytes=sys.maxsize)

SCALED_MARGIN = 2
"""Scaled decoding keeps at least so many times the pixels that the resize asks for, in each direction: at 1 the
libjpeg's own filter would do all of the resizing (benchmarks/serving has the differences). Part of what ``scaled``
means: another margin gives other pixels, and needs another name in ``ImageSpec.decode``."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# `decode` has a limit of its own, per model and checked before any pixel is read. Pillow's process-wide limit would
# warn below it or refuse a model that asks for more.
Image.MAX_IMAGE_PIXELS = None
# A damaged EXIF or TIFF tag is Pillow's to skip; one log line per such request helps nobody.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")


def decode(data: bytes | bytearray | memoryview, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """Decodes one encoded image to its first frame, upright, in mode ``L`` or ``RGB``.

    Transparent pixels are composed over ``spec.background``; 16-bit grey is scaled to 8 bits; CMYK and palettes are
    converted; the EXIF orientation is applied. With ``spec.decode`` ``scaled``, a JPEG comes out at a half, a quarter
    or an eighth of its size, whichever is the smallest with a short side of at least ``SCALED_MARGIN * short_side``:
    libjpeg then computes only that many coefficients of each block of 8 x 8 pixels.

    Args:
        data: the content of an image file.
        spec: limits, channels, background, and whether JPEG files are decoded at a smaller size.
        short_side: what the image's short side is going to be resized to; None: ``spec.resize``, as :func:`prepare`
            does.

    Returns:
        A Pillow image of mode ``L`` (1 channel) or ``RGB`` (3 channels), width and height at least 1.

    Raises:
        InputError: ``empty``, ``too_large``, ``not_an_image``, ``too_many_pixels``, ``unsupported_image`` or
            ``corrupt_image``.
    """
    return decode_opened(open_image(data, spec), spec, short_side)


def open_image(data: bytes | bytearray | memoryview, spec: ImageSpec) -> ImageFile.ImageFile:
    """Reads an image file's header; its pixels wait for :func:`decode_opened`.

    Returns:
        A Pillow image whose ``size`` is that of the file.

    Raises:
        InputError: ``empty``, ``too_large``, ``not_an_image`` or ``too_many_pixels``.
    """
    if len(data) == 0:
        raise InputError("empty", "the body is empty; send the content of an image file")
    if len(data) > spec.max_bytes:
        raise InputError("too_large", f"the image has {len(data)} bytes; at most {spec.max_bytes} are accepted")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError("not_an_image", f"not an image of a known format ({', '.join(FORMATS)})") from error
    _check_pixels(*image.size, spec)
    return image


def decode_opened(image: Image.Image, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """:func:`decode` for what :func:`open_image` opened; an image that is decoded already only changes its mode.

    Raises:
        InputError: ``unsupported_image`` or ``corrupt_image``.
    """
    try:
        if spec.decode == "scaled":
            least = SCALED_MARGIN * (short_side or spec.resize)
            image.draft(None, (least, least))  # only JPEG files (with MPO) take it
        image.load()
        _apply_orientation(image)
        return _to_channels(image, spec)
    except InputError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError, ... for damaged data: to the caller
        # they are all the same fact.
        raise ImageError("corrupt_image", f"the {image.format} data is damaged or truncated: {error}") from error


def prepare(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Resizes the short side to ``spec.resize`` and takes the centre crop, in one resampling step.

    Only the part of the source that the crop shows is resampled, so a 1 x 10,000 strip costs no more than a square.

    Args:
        image: mode ``L`` or ``RGB``, from :func:`decode`.
        spec: sizes and filter.

    Returns:
        uint8 array of shape (crop, crop, channels).
    """
    width, height = image.size
    side = min(width, height) * spec.crop / spec.resize  # of the crop, in source pixels
    left, top = (width - side) / 2, (height - side) / 2
    # Rounding may put the far edge a hair outside of the image, which Pillow refuses.
    box = (left, top, min(left + side, width), min(top + side, height))
    resized = image.resize((spec.crop, spec.crop), _RESAMPLING[spec.interpolation], box=box)
    return np.asarray(resized, dtype=np.uint8).reshape(spec.crop, spec.crop, spec.channels)


def shrink(image: Image.Image, short_side: int, spec: ImageSpec) -> Image.Image:
    """``image`` with a short side of at most ``short_side`` pixels: what training crops from."""
    factor = short_side / min(image.size)
    if factor >= 1:
        return image
    width, height = image.size
    return image.resize(
        (max(short_side, round(width * factor)), max(short_side, round(height * factor))),
        _RESAMPLING[spec.interpolation],
    )


def load(data: bytes | bytearray | memoryview, spec: ImageSpec) -> np.ndarray:
    """:func:`decode` and :func:`prepare`: the content of an image file -> uint8 (crop, crop, channels)."""
    return prepare(decode(data, spec), spec)


def stored_mode(data: bytes) -> str:
    """Pillow's mode of an image as its file stores it, such as ``L`` or ``RGB``; the pixels are not read.

    Raises:
        InputError: as :func:`decode` does for a file that cannot be opened.
    """
    with open_image(data, _NO_LIMITS) as image:
        return image.mode


def from_nested_list(values: Any, spec: ImageSpec) -> Image.Image:
    """An image sent as JSON numbers: nested lists HxW or HxWx3 (or HxWx1), integers 0..255 or floats 0..1.

    One float makes all values floats: ``[[0, 1]]`` is nearly black, ``[[0.0, 1.0]]`` is black and white.

    Returns:
        A Pillow image of mode ``L`` or ``RGB``, as :func:`decode` gives.

    Raises:
        InputError: ``bad_image_data`` (ragged, not numbers, out of range, wrong shape), ``too_many_pixels``.
    """
    _check_numbers(values)
    try:
        array = np.array(values)
    except (ValueError, OverflowError) as error:
        raise ImageError("bad_image_data", "image_data: the rows have different lengths") from error
    if array.dtype.kind not in "iuf":
        raise ImageError("bad_image_data", "image_data: integers must lie in 0..255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        shape = "x".join(map(str, array.shape))
        raise ImageError("bad_image_data", f"image_data: expected HxW or HxWx3 numbers, got shape {shape}")
    _check_pixels(array.shape[1], array.shape[0], spec)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError(
                "bad_image_data", "image_data: floats must lie in 0..1; send integers for values in 0..255"
            )
        array = np.rint(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise ImageError("bad_image_data", "image_data: integers must lie in 0..255")
    return _to_channels(Image.fromarray(array.astype(np.uint8)), spec)


def _check_numbers(values: Any) -> None:
    """Refuses anything but lists of numbers before numpy sees it: one long string would set the size of all items."""
    level = [values]
    for _ in range(4):  # the list itself, rows, columns, channels
        kinds = set(map(type, level))
        if kinds <= {int, float}:
            return
        if kinds != {list}:
            break
        level = list(itertools.chain.from_iterable(level))
    raise ImageError("bad_image_data", "image_data: expected a nested list of numbers, HxW or HxWx3")


def _check_pixels(width: int, height: int, spec: ImageSpec) -> None:
    if width * height > spec.max_pixels:
        raise ImageError(
            "too_many_pixels", f"the image has {width} x {height} pixels; at most {spec.max_pixels} are accepted"
        )


def _apply_orientation(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: S110 - damaged EXIF around good pixels: the picture is shown as it lies
        pass


def _to_channels(image: Image.Image, spec: ImageSpec) -> Image.Image:
    if image.mode.startswith("I;16"):
        # 16-bit grey. Pillow's own conversion to 8 bits clips everything above 255 to white.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(
            "unsupported_image", "32-bit grey pixels have no defined white; convert the image to 8 or 16 bits"
        )
    target = "L" if spec.channels == 1 else "RGB"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (spec.background,) * 3 + (255,))
        canvas.alpha_composite(rgba)
        image = canvas.convert("RGB")
    return image if image.mode == target else image.convert(target)
