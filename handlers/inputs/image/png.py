"""PNG files without the chunks that decide no pixel, so that none of them can refuse, or change, a picture."""

import zlib
from collections.abc import Iterator

_SIGNATURE = 8
_MOST_CHUNKS = 100_000
"""What comes after so many chunks is left as it is: writers of large images have some thousands."""
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_TURNS = (b"XML:com.adobe.xmp", b"xmp", b"exif", b"Raw profile type exif")
"""Keywords of text chunks that may hold the EXIF orientation."""
_MOST_TEXT = 1 << 20
"""Pillow refuses the whole file for a text that is longer when it is unpacked."""
_KEPT = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
"""Ancillary chunks that decide pixels: transparency, orientation, and the frames of an animation."""
_MOST_PROFILE = 16 << 20
"""Size of an ICC profile above which it counts as damaged."""


def essential(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """A PNG file without its metadata: texts, colour profile, time, physical size, and what else shows no pixel.

    The orientation stays, if its chunk's checksum is right. So does a wrong checksum of a chunk that decides pixels:
    the decoder refuses it.
    """
    parts: list[bytes | memoryview] = [bytes(data[:_SIGNATURE])]
    view, kept = memoryview(data), _SIGNATURE
    for kind, start, end in _chunks(view):
        if end == len(view) or _stays(kind, view[start:end]):
            parts.append(view[start:end])
            kept += end - start
    return data if kept == len(view) else b"".join(parts)


def profile(data: bytes | bytearray | memoryview) -> bytes | None:
    """The ICC profile of a PNG file; None without one, or where it is damaged."""
    view = memoryview(data)
    for kind, start, end in _chunks(view):
        if kind == b"IDAT":
            return None
        if kind == b"iCCP" and _is_intact(view[start:end]):
            name, _, packed = bytes(view[start + 8 : end - 4]).partition(b"\0")
            return _unpacked(packed[1:], _MOST_PROFILE) if len(name) < 80 and packed[:1] == b"\0" else None
    return None


def _chunks(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk; whatever follows the last one that is whole comes as its rest."""
    at = _SIGNATURE
    for _ in range(_MOST_CHUNKS):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end >= len(view) or not kind.isalpha():
            break
        yield kind, at, end
        at = end
    if at < len(view):
        yield bytes(view[at + 4 : at + 8]), at, len(view)


def _stays(kind: bytes, chunk: memoryview) -> bool:
    if not kind[0] & 0x20 or kind == b"tRNS":  # a critical chunk begins with a capital letter
        return True
    if kind in _TEXT:
        return _turns(kind, chunk)
    return kind in _KEPT and _is_intact(chunk)


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _turns(kind: bytes, chunk: memoryview) -> bool:
    """Whether a text chunk may hold the orientation, and can be read."""
    keyword, _, rest = bytes(chunk[8 : min(len(chunk) - 4, 8 + 100)]).partition(b"\0")
    if keyword not in _TURNS or not _is_intact(chunk):
        return False
    text = bytes(chunk[8 + len(keyword) + 1 : -4])
    if kind == b"zTXt":
        return text[:1] == b"\0" and _unpacked(text[1:], _MOST_TEXT) is not None
    if kind == b"iTXt" and rest[:1] not in (b"", b"\0"):
        return _unpacked(text[2:].split(b"\0", 2)[-1], _MOST_TEXT) is not None
    return len(text) <= _MOST_TEXT


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Inflates at most ``most`` bytes; None for more, and for damage."""
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(packed, most)
    except zlib.error:
        return None
    return None if inflate.unconsumed_tail else content
