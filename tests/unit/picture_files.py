"""Image files written sample by sample, in layouts that Pillow does not write."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

SIDE = 16
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, and steps down and across of each pass of an interlaced PNG."""


def dark_top(low: float, high: float, side: int = SIDE) -> np.ndarray:
    """(side, side): ``low`` in the upper half, ``high`` in the lower."""
    rows = np.where(np.arange(side) < side // 2, low, high)
    return np.repeat(rows[:, None], side, axis=1)


def packed(values: np.ndarray, bits: int, order: str = "<") -> bytes:
    """Rows of samples; fewer than 8 bits, and 12, begin with the highest bit, and rows with a new byte."""
    if bits in (8, 16, 32):
        kind = {"u": "u", "i": "i", "f": "f"}[values.dtype.kind]
        return values.astype(f"{order}{kind}{bits // 8}").tobytes()
    rows = values.reshape(len(values), -1).astype(np.uint64)
    planes = (rows[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(planes.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def tiff(
    values: np.ndarray,
    photometric: int | None,
    bits: int | None = None,
    order: str = "<",
    tags: dict[int, Sequence[int]] | None = None,
    deflate: bool = False,
    planar: bool = False,
) -> bytes:
    """A TIFF of one page.

    Args:
        values: (H, W) or (H, W, samples).
        photometric: 0 WhiteIsZero, 1 BlackIsZero, 2 RGB, 5 CMYK; None: the tag is missing.
        bits: of a sample; None: as in the array.
        order: byte order, ``<`` or ``>``.
        tags: further tags, or other values: number -> SHORT values.
        deflate: compressed.
        planar: a strip for each sample.
    """
    bits = bits or values.dtype.itemsize * 8
    samples = values.shape[2] if values.ndim == 3 else 1
    strips = [values[..., i] for i in range(samples)] if planar else [values]
    contents = [packed(strip, bits, order) for strip in strips]
    if deflate:
        contents = [zlib.compress(content) for content in contents]
    height, width = values.shape[:2]
    starts = [8 + sum(len(earlier) for earlier in contents[:i]) for i in range(len(contents))]
    entries: dict[int, Sequence[int]] = {
        256: (width,),
        257: (height,),
        258: (bits,) * samples,
        259: (8 if deflate else 1,),
        **({} if photometric is None else {262: (photometric,)}),
        273: starts,
        277: (samples,),
        278: (height,),
        279: [len(content) for content in contents],
        284: (2 if planar else 1,),
        339: ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],) * samples,
        **(tags or {}),
    }
    body = b"".join(contents)
    body += b"\0" * (len(body) % 2)
    directory, beyond = struct.pack(f"{order}H", len(entries)), b""
    after = 8 + len(body) + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        is_long = tag in (273, 279)
        content = struct.pack(f"{order}{len(numbers)}{'L' if is_long else 'H'}", *numbers)
        if len(content) > 4:
            place = struct.pack(f"{order}L", after + len(beyond))
            beyond += content + b"\0" * (len(content) % 2)
        else:
            place = content.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHL", tag, 4 if is_long else 3, len(numbers)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}L", 8 + len(body)) + body + directory + b"\0" * 4 + beyond


def chunk(kind: bytes, content: bytes, checksum_wrong: bool = False) -> bytes:
    """One chunk of a PNG."""
    checksum = zlib.crc32(kind + content) ^ checksum_wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(
    values: np.ndarray,
    bits: int = 8,
    colour: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG.

    Args:
        values: (H, W) or (H, W, samples).
        bits: of a sample.
        colour: type 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha; None: by the number of samples.
        before: chunks before the pixels.
        after: chunks behind them.
        interlaced: in the seven passes of Adam7.
    """
    samples = values.shape[2] if values.ndim == 3 else 1
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples] if colour is None else colour
    height, width = values.shape[:2]
    passes = [values[row::down, column::across] for row, column, down, across in _ADAM7] if interlaced else [values]
    lines = b""
    for part in passes:
        rows = packed(part.astype(np.uint16 if bits == 16 else np.uint8), bits, ">")
        length = len(rows) // max(1, len(part))
        lines += b"".join(b"\0" + rows[i * length : (i + 1) * length] for i in range(len(part)) if length)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def bmp32(values: np.ndarray, header: int = 108) -> bytes:
    """A BMP of 32 bits with masks for blue, green, red and alpha, as version 4 (108) and 5 (124) headers have.

    Args:
        values: (H, W, 4), red, green, blue, alpha.
        header: its size.
    """
    height, width = values.shape[:2]
    rows = np.ascontiguousarray(values[::-1, :, [2, 1, 0, 3]]).astype(np.uint8).tobytes()
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
    info += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = info.ljust(header, b"\0")
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + rows
