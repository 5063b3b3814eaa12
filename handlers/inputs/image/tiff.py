"""TIFF files as their tags say: which samples are colour, which one is alpha, how deep they are, and what is white.

Pillow knows a table of layouts, in which some have another meaning than in the file (16 bits with WhiteIsZero, 12
bits, a fourth sample that nothing calls alpha) and others are missing. Here Pillow only fetches the samples of these,
under a layout that it knows; :mod:`.samples` gives them their meaning.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

from PIL import ImageFile, ImagePalette, TiffImagePlugin

from .errors import ImageError

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 258, 259, 262, 266
_SAMPLES, _PLANAR, _COLOUR_MAP, _INK_SET, _EXTRA, _FORMAT = 277, 284, 320, 332, 338, 339
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324
_SUBFILE, _SUB_IMAGES, _MAX_VALUE, _MAX_NUMBER, _DNG = 254, 330, 281, 341, 50706

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Photometric interpretation -> samples of colour; others are refused."""
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "L*a*b*"}
_REFUSED = {
    4: "a transparency mask",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a camera's raw data",
    32844: "LogL",
    32845: "LogLuv",
    34892: "a camera's raw data",
}
_CCITT = (2, 3, 4)
_COMPRESSIONS = {34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000", 50002: "JPEG XL", 52546: "JPEG XL"}
_JPEG_COMPRESSIONS = (6, 7)
_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_DTYPES = {
    (1, 12): "uint16", (1, 16): "uint16", (2, 16): "int16", (3, 16): "float16",
    (1, 32): "uint32", (2, 32): "int32", (3, 32): "float32",
}  # fmt: skip
"""Sample format and bits of deep grey samples -> their type in NumPy."""
_NATIVE = "L" if sys.byteorder == "little" else "B"


@dataclass(frozen=True, kw_only=True)
class TiffSamples:
    """What the tags say of the samples of a TIFF's first page."""

    photometric: int
    bits: int
    """Of each sample."""
    count: int
    """Samples of one pixel."""
    extra: tuple[int, ...]
    """What each sample beyond the colours is: 0 unspecified, 1 associated (premultiplied) alpha, 2 straight alpha."""
    format: int
    """1 unsigned, 2 signed, 3 floating point."""
    order: Literal["L", "B"]
    """Byte order of the samples as Pillow fetches them, little or big."""
    planar: bool
    """Each sample has a plane of its own."""
    compression: int
    white: int | None = None
    """The value of white; None where the file does not say."""

    @property
    def kind(self) -> str:
        """For people, such as ``TIFF with signed 16-bit grey samples``."""
        compression = _COMPRESSIONS.get(self.compression)
        if compression:
            return f"TIFF compressed as {compression}"
        layout = f" and {len(self.extra)} more" if self.extra else ""
        name = _NAMES.get(self.photometric, f"photometric interpretation {self.photometric}")
        return f"TIFF with {_FORMATS.get(self.format, '')}{self.bits}-bit {name}{layout} samples"

    @property
    def is_grey(self) -> bool:
        """One sample of colour, which is no index into a palette."""
        return self.photometric in (0, 1)

    @property
    def is_deep(self) -> bool:
        """More than 8 bits a sample."""
        return self.bits > 8

    @property
    def is_inverted(self) -> bool:
        """The largest value is black."""
        return self.photometric == 0

    @property
    def dtype(self) -> str:
        """Of deep grey samples, in NumPy."""
        return _DTYPES[self.format, self.bits]

    @property
    def alpha(self) -> Literal["none", "straight", "premultiplied"]:
        """What the first sample after the colours is."""
        first = self.extra[0] if self.extra else 0
        return "straight" if first == 2 else "premultiplied" if first == 1 else "none"


class TiffFile(TiffImagePlugin.TiffImageFile):
    """A TIFF whose layout :attr:`samples` describes; what Pillow fetches of it may have another mode than it means."""

    samples: TiffSamples

    def _setup(self) -> None:
        said = _described(self.tag_v2)
        fetched = _fetched_as(said)
        tags = self.tag_v2
        tags[_PHOTOMETRIC] = said.photometric
        if said.format == 1:
            tags[_FORMAT] = (1,) * said.count  # undefined data counts as unsigned
        if said.planar and said.compression == 1:
            self._keep_planes(_COLOURS[said.photometric] + (said.alpha != "none"), said.count)
        if fetched is not None:
            # Any layout that Pillow knows will do: only the geometry of its tiles stays.
            self._pretend(fetched)
        try:
            super()._setup()
        except (SyntaxError, KeyError) as error:
            raise _refusal(said) from error
        if fetched is not None:
            self._mode = fetched[0]
            self._fetch(lambda _: fetched[1], fetched[2] / (16 if fetched[0] == "LA" else 8))
        elif said.planar and said.is_deep and said.compression == 1:
            self._fetch(lambda name: f"{name};16{said.order}", 1)  # Pillow would take these planes for 8 bits
        if self.palette is not None and max(tags[_COLOUR_MAP]) < 256:
            levels = bytes(min(255, max(0, value)) for value in tags[_COLOUR_MAP])  # of 8 bits in place of 16
            self.palette = ImagePalette.raw("RGB;L", levels)
        self.samples = replace(said, order=_NATIVE) if self.use_load_libtiff else said  # type: ignore[arg-type]

    def _keep_planes(self, kept: int, count: int) -> None:
        """Pillow takes no planes of samples that it leaves out."""
        for tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
            if tag in self.tag_v2:
                offsets = self.tag_v2[tag]
                self.tag_v2[tag] = offsets[: len(offsets) // count * kept]

    def _pretend(self, fetched: tuple[str, str, int]) -> None:
        tags = self.tag_v2
        two = fetched[0] == "LA"
        tags[_PHOTOMETRIC], tags[_FORMAT], tags[_FILL_ORDER] = 1, (1,), 1
        tags[_BITS], tags[_SAMPLES] = ((8, 8), 2) if two else ((8,), 1)
        if two:
            tags[_EXTRA] = (2,)
        elif _EXTRA in tags:
            del tags[_EXTRA]

    def _fetch(self, renamed: Any, wider: float) -> None:
        """Other raw modes, and lines that are so many times wider, for the same tiles."""
        tiles = []
        for tile in self.tile:
            name, *rest = tuple(tile.args or ())
            if tile.codec_name == "libtiff":
                args = (_native(renamed(name)), *rest)
            else:
                args = (renamed(name), round(int(rest[0]) * wider), *rest[1:])
            tiles.append(ImageFile._Tile(tile.codec_name, tile.extents, tile.offset, args))
        self.tile = tiles


def other_byte(raw_mode: str) -> str:
    """The raw mode that fetches the lower byte of 16 bits where ``raw_mode`` fetches the higher one; empty if none."""
    for order, other in (("16B", "16L"), ("16L", "16B"), ("16N", "16B" if _NATIVE == "L" else "16L")):
        if raw_mode.endswith(f";{order}"):
            return raw_mode.removesuffix(order) + other
    return ""


def _native(raw_mode: str) -> str:
    """What libtiff gives: samples in the machine's byte order."""
    return {"I;16B": "I;16N", "I;16": "I;16N", "I;32B": "I;32N", "I;32": "I;32N"}.get(raw_mode, raw_mode)


def _described(tags: Any) -> TiffSamples:
    """Reads the tags of the samples.

    Raises:
        ImageError: the file says that it holds something that is not shown as it lies.
        SyntaxError: damage.
    """
    compression = _number(tags.get(_COMPRESSION, 1))
    others = bool(tags.next) or _SUB_IMAGES in tags
    if _DNG in tags or (others and _number(tags.get(_SUBFILE, 0)) & 1):
        raise unsupported("TIFF whose first image is a thumbnail, as in a camera's raw file")
    count = _number(tags.get(_SAMPLES, 3 if compression == _JPEG_COMPRESSIONS[0] else 1))
    photometric = _photometric(tags, compression, count)
    if photometric not in _COLOURS:
        raise unsupported(f"TIFF with {_REFUSED.get(photometric, f'photometric interpretation {photometric}')}")
    bits = _numbers(tags.get(_BITS, (1,)))
    if len(set(bits)) > 1:
        raise unsupported(f"TIFF with samples of {', '.join(map(str, bits))} bits")
    formats = {1 if value == 4 else value for value in _numbers(tags.get(_FORMAT, (1,)))}
    if len(formats) > 1:
        raise unsupported("TIFF with samples of different formats")
    if photometric == 5 and _number(tags.get(_INK_SET, 1)) != 1:
        raise unsupported("TIFF with inks that are not CMYK")
    said = TiffSamples(
        photometric=photometric,
        bits=bits[0],
        count=count,
        extra=_numbers(tags.get(_EXTRA, ())),
        format=formats.pop(),
        order="L" if tags.prefix == TiffImagePlugin.II else "B",
        planar=_number(tags.get(_PLANAR, 1)) == 2 and count > 1,
        compression=compression,
    )
    said = replace(said, white=_white(tags, said))
    _check_bands(said)
    if (said.format == 2 and not said.is_deep) or (said.planar and (said.is_grey or said.alpha == "premultiplied")):
        raise unsupported(f"{said.kind}{' in planes of their own' if said.planar else ''}")
    if said.is_deep and _number(tags.get(_FILL_ORDER, 1)) != 1 and compression == 1:
        raise unsupported(f"{said.kind}, the bits of each byte in reverse")
    return said


def _photometric(tags: Any, compression: int, count: int) -> int:
    """A file that does not say it is read as libtiff does."""
    if compression == _JPEG_COMPRESSIONS[0]:
        return 6
    missing = 2 if count >= 3 else 0 if compression in _CCITT else 1
    return _number(tags.get(_PHOTOMETRIC, missing))


def _check_bands(said: TiffSamples) -> None:
    """A sample beyond the colours has to be described by ExtraSamples, and of grey it has to be alpha."""
    beyond = said.count - _COLOURS[said.photometric]
    if beyond <= 0:
        return
    if said.is_grey and (beyond > 1 or said.alpha == "none"):
        raise unsupported(f"TIFF with {said.count} grey bands")
    if len(said.extra) != beyond or any(value not in (0, 1, 2) for value in said.extra):
        raise unsupported(
            f"TIFF with {said.count} bands: {_NAMES[said.photometric]} and {beyond} that ExtraSamples does not describe"
        )


def _white(tags: Any, said: TiffSamples) -> int | None:
    """The largest value of unsigned samples; MaxSampleValue where it is that of another depth, such as 4095.

    Other values of MaxSampleValue are statistics of one image, which TIFF 6.0 forbids to use for what it looks like.
    """
    if said.format != 1 or said.bits > 16:
        return None
    full = (1 << said.bits) - 1
    named = tags.get(_MAX_VALUE, tags.get(_MAX_NUMBER))
    values = {value for value in (named if isinstance(named, tuple) else (named,)) if value is not None}
    depths = {(1 << bits) - 1 for bits in range(8, said.bits)}
    return int(values.pop()) if len(values) == 1 and values <= depths else full


def _fetched_as(said: TiffSamples) -> tuple[str, str, int] | None:
    """Mode, raw mode and bits of a pixel that keep the samples as they are; None where Pillow's own layout does."""
    if not said.is_grey or said.planar:
        return None
    if said.bits == 8 and said.count == 2 and said.format == 1:
        return "LA", "LA", 16
    if (said.format, said.bits) not in _DTYPES or said.compression in _JPEG_COMPRESSIONS:
        return None
    big = "B" if said.order == "B" else ""
    if said.count == 2:
        return ("RGBA", "RGBA", 32) if said.bits == 16 else None
    return {
        12: ("I;16", "I;12", 12),  # which begins with the highest bit in either byte order
        16: ("I;16", f"I;16{big}", 16),
        32: ("I", f"I;32{big}", 32),
    }[said.bits]


def _refusal(said: TiffSamples) -> ImageError:
    return unsupported(said.kind)


def unsupported(kind: str) -> ImageError:
    """The error for a kind of TIFF."""
    return ImageError("unsupported_image", f"{kind}; save it as 8-bit or 16-bit grey, or as 8-bit RGB")


def _number(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(item) for item in value) if isinstance(value, tuple) else (int(value),)
