"""bytes -> uint8 pixels of the model's input size. The only implementation in the project.

The server, the golden samples, training's evaluation and (for decoding) training's augmentation all call it, so
what is served is what was measured. Its parts: :mod:`.opening` (which files are opened), :mod:`.meaning` (what their
samples mean), :mod:`.geometry` (the square that the model sees).
"""

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin

from ...core.errors import InputError
from . import jpeg
from .channels import to_channels
from .errors import ImageError
from .geometry import framed, hidden_share, prepare, shrink
from .limits import check_pixels
from .meaning import Stored, picture_of, samples_of
from .nested import from_nested_list
from .opening import FORMATS, open_header
from .samples import DeepSamples
from .spec import ImageSpec
from .tiff import TiffFile

__all__ = [
    "FORMATS",
    "SCALED_MARGIN",
    "Examined",
    "decode",
    "decode_opened",
    "examine",
    "framed",
    "from_nested_list",
    "hidden_share",
    "load",
    "open_image",
    "prepare",
    "shrink",
    "stored_mode",
    "stored_samples",
]

_NO_LIMITS = ImageSpec(channels=1, resize=1, crop=1, max_pixels=sys.maxsize, max_bytes=sys.maxsize, reading="file")

T = TypeVar("T")

_NEARLY_ALL = (0.001, 0.999)
"""Quantiles between which the samples of an image lie, but for a few."""

_SEEN = 1_000_000
"""Samples of an image that its quantiles are computed of."""

SCALED_MARGIN = 2
"""Scaled decoding keeps at least so many times the pixels that the resize asks for, in each direction: at 1 the
libjpeg's own filter would do all of the resizing (benchmarks/serving has the differences). Part of what ``scaled``
means: another margin gives other pixels, and needs another name in ``ImageSpec.decode``."""

# `decode` has a limit of its own, per model and checked before any pixel is read. Pillow's process-wide limit would
# warn below it or refuse a model that asks for more.
Image.MAX_IMAGE_PIXELS = None
# A damaged EXIF or TIFF tag is Pillow's to skip; one log line per such request helps nobody.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")


def decode(data: bytes | bytearray | memoryview, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """Decodes one encoded image to its first frame, upright, in mode ``L`` or ``RGB``.

    Transparent pixels are composed over ``spec.background``; deeper samples are scaled to 8 bits; CMYK and palettes
    are converted; the EXIF orientation is applied. ``spec.reading`` says whose word counts for what is transparent,
    how deep the samples are and what is white. With ``spec.decode`` ``scaled``, a JPEG comes out at a half, a quarter
    or an eighth of its size, whichever is the smallest with a short side of at least ``SCALED_MARGIN * short_side``:
    libjpeg then computes only that many coefficients of each block of 8 x 8 pixels.

    Args:
        data: the content of an image file.
        spec: limits, channels, background, and what decides pixels.
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
        InputError: ``empty``, ``too_large``, ``not_an_image``, ``too_many_pixels`` or ``unsupported_image``.
    """
    if len(data) == 0:
        raise InputError("empty", "the body is empty; send the content of an image file")
    if len(data) > spec.max_bytes:
        raise InputError("too_large", f"the image has {len(data)} bytes; at most {spec.max_bytes} are accepted")
    image = open_header(data, spec)
    check_pixels(*image.size, spec)
    return image


def decode_opened(image: Image.Image, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """:func:`decode` for what :func:`open_image` opened; an image that is decoded already only changes its mode.

    Raises:
        InputError: ``unsupported_image`` or ``corrupt_image``.
    """
    return _guarded(image, partial(_decode, spec=spec, short_side=short_side))


def load(data: bytes | bytearray | memoryview, spec: ImageSpec) -> np.ndarray:
    """:func:`decode` and :func:`prepare`: the content of an image file -> uint8 (crop, crop, channels)."""
    return prepare(decode(data, spec), spec)


def stored_mode(data: bytes) -> str:
    """Pillow's mode of an image as its file stores it, such as ``L`` or ``RGB``; the pixels are not read.

    Raises:
        InputError: as :func:`decode` does for a file that cannot be opened.
    """
    with open_image(data, _NO_LIMITS) as image:
        return _mode(image)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is to be known of a file before a model is trained on it."""

    width: int
    height: int
    """Upright, in full size."""
    mode: str
    """See :func:`stored_mode`."""
    is_flattened: bool
    """Nothing but one flat colour is left where its transparent parts are composed over the background."""
    levels: tuple[float, float] | None
    """Of samples of more than 8 bits: nearly the smallest and the largest, as shares of white; None for others, and
    where the file does not say what is white."""


def examine(data: bytes | bytearray | memoryview, spec: ImageSpec) -> Examined:
    """Decodes a file in full, and looks at it.

    Raises:
        InputError: as :func:`decode`.
    """
    image = open_image(data, spec)
    mode, is_deep = _mode(image), Stored.of(image).is_deep
    picture = decode_opened(image, spec)
    flattened = False
    if _is_flat(picture):
        over_another = decode(data, replace(spec, background=255 - spec.background))
        flattened = over_another.getextrema() != picture.getextrema()
    deep = stored_samples(data, spec) if is_deep else None
    levels = None
    if deep is not None and deep.white is not None:
        some = deep.values.reshape(-1)[:: max(1, deep.values.size // _SEEN)]
        low, high = np.quantile(some, _NEARLY_ALL) / deep.white
        levels = (float(low), float(high))
    return Examined(width=picture.width, height=picture.height, mode=mode, is_flattened=flattened, levels=levels)


def stored_samples(data: bytes | bytearray | memoryview, spec: ImageSpec) -> DeepSamples | None:
    """The samples of a file of more than 8 bits a sample, upright, in the file's own values; None for any other.

    Raises:
        InputError: as :func:`decode`.
    """
    if spec.reading == "pillow":
        return None
    with open_image(data, spec) as image:
        stored = Stored.of(image)
        return _guarded(image, partial(_samples, stored=stored, spec=spec)) if stored.is_deep else None


def _samples(image: Image.Image, stored: Stored, spec: ImageSpec) -> DeepSamples | None:
    image.load()
    _turn_upright(image)
    return samples_of(image, stored, partial(_again, stored, spec), colour=True)


def _guarded(image: Image.Image, read: Callable[[Image.Image], T]) -> T:
    try:
        return read(image)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError, ... for damaged data: to the caller
        # they are all the same fact.
        raise ImageError("corrupt_image", f"the {image.format} data is damaged or truncated: {error}") from error


def _decode(image: Image.Image, spec: ImageSpec, short_side: int | None) -> Image.Image:
    stored = Stored.of(image)
    image = _loaded(image, stored, spec, SCALED_MARGIN * (short_side or spec.resize))
    _turn_upright(image)
    if spec.reading == "pillow":
        return to_channels(image, spec)
    picture = picture_of(image, stored, partial(_again, stored, spec), spec)
    target = "L" if spec.channels == 1 else "RGB"
    return picture if picture.mode == target else picture.convert(target)


def _loaded(image: Image.Image, stored: Stored, spec: ImageSpec, least: int) -> Image.Image:
    """``image`` with its pixels; a JPEG that lacks its end marker and nothing else is decoded all the same."""
    _draft(image, spec, least)
    try:
        image.load()
    except OSError:
        whole = _without_end(stored.data, spec, least) if isinstance(image, JpegImagePlugin.JpegImageFile) else None
        if whole is None:
            raise
        return whole
    return image


def _draft(image: Image.Image, spec: ImageSpec, least: int) -> None:
    # Other formats have a draft that is another picture: the thumbnail in a HEIC file.
    if spec.decode == "scaled" and isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, (least, least))


def _without_end(data: bytes, spec: ImageSpec, least: int) -> Image.Image | None:
    """The image of a JPEG file without an end marker; None if pixels are missing, too.

    Whether some are missing is found in full size: scaled decoding leaves out what a truncated file may lack.
    """
    if not jpeg.has_every_scan(data):
        return None
    whole = jpeg.with_ends(data)
    try:
        if len({_digest(open_header(content, spec)) for content in whole}) > 1:
            return None
        image = open_header(whole[0], spec)
        _draft(image, spec, least)
        image.load()
    except OSError:
        return None
    return image


def _digest(image: Image.Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _again(stored: Stored, spec: ImageSpec, renamed: Callable[[str], str]) -> Image.Image:
    """Decodes a file once more, upright, with other raw modes."""
    image = open_header(stored.data, spec)
    image.tile = [tile._replace(args=_renamed(tile.args, renamed)) for tile in image.tile]
    image.load()
    _turn_upright(image)
    return image


def _renamed(args: Any, renamed: Callable[[str], str]) -> Any:
    return (renamed(args[0]), *args[1:]) if isinstance(args, tuple) else renamed(args)


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: S110 - damaged EXIF around good pixels: the picture is shown as it lies
        pass


def _mode(image: ImageFile.ImageFile) -> str:
    """What Pillow fetches of deep grey with alpha has another mode."""
    if isinstance(image, TiffFile) and image.samples.is_grey and image.samples.count == 2:
        return "LA"
    return image.mode


def _is_flat(picture: Image.Image) -> bool:
    extrema: Any = picture.getextrema()
    return all(low == high for low, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
