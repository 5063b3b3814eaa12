"""JPEG files as a sequence of segments: what kind they are, and whether anything is missing at their end."""

import re
from collections.abc import Iterator

_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a length and a content."""
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_JPEG_LS = 0xF7
_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_EXIF, _ICC, _ADOBE, _JFIF = b"Exif\0\0", b"ICC_PROFILE\0", b"Adobe", b"JFIF"

_FILLERS = (b"", b"\x55" * 32, b"\xaa" * 32)
_RESTARTS = 8
_FIRST_RESTART = 0xD0


def segments(data: bytes | bytearray | memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; the data of a scan belongs to its segment. Stops where it is damaged."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # padding, or a marker that stands alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            found = _NEXT.search(data, end)
            end = found.start() if found else len(data)
        yield marker, at, min(end, len(data))
        at = end


def kind(data: bytes | bytearray | memoryview) -> str | None:
    """What a JPEG file is that is not decoded, such as ``12-bit JPEG``; None for the others."""
    for marker, start, _ in segments(data):
        if marker == _JPEG_LS:
            return "JPEG-LS"
        if marker in _FRAMES:
            bits = data[start + 4] if start + 4 < len(data) else 8
            return None if bits == 8 else f"{'lossless ' if marker in _LOSSLESS else ''}{bits}-bit JPEG"
        if marker == _SCAN:
            return None
    return None


def without_metadata(data: bytes | bytearray | memoryview, keep_readable: bool) -> bytes:
    """The file without comments and without application segments that decide no pixel.

    Args:
        data: the file.
        keep_readable: keep the EXIF data (for the orientation) and the ICC profile, too.
    """
    kept = (_JFIF, _ADOBE, _EXIF, _ICC) if keep_readable else (_JFIF, _ADOBE)
    parts, last = [bytes(data[:2])], 2
    for marker, start, end in segments(data):
        is_metadata = marker == 0xFE or 0xE0 <= marker <= 0xEF
        if not is_metadata or bytes(data[start + 4 : start + 16]).startswith(kept):
            parts.append(bytes(data[start:end]))
        last = end
    return b"".join([*parts, bytes(data[last:])])


def with_ends(data: bytes) -> list[bytes]:
    """A file that has no end marker with several ends: the marker at once, and after other data.

    A decoder that still waits for rows takes that data for theirs, so that their pixels differ. Where all pixels are
    the same with each end, none of them is missing.
    """
    data = data.rstrip(b"\xff")  # the first half of a marker
    last = max((data.rfind(bytes((0xFF, _FIRST_RESTART + i))), i) for i in range(_RESTARTS))
    following = last[1] + 1 if last[0] >= 0 else 0  # a decoder skips an interval whose marker is not the next one
    ends = []
    for filler in _FILLERS:
        markers = (bytes((0xFF, _FIRST_RESTART + (following + i) % _RESTARTS)) for i in range(2 * _RESTARTS))
        ends.append(b"".join(filler + marker + filler for marker in markers) if filler else b"")
    return [data + end + b"\xff\xd9" for end in ends]


def has_every_scan(data: bytes | bytearray | memoryview) -> bool:
    """Whether the scans of a file, if each is whole, hold every component in full precision."""
    components: set[int] = set()
    progressive = False
    missing: dict[int, list[int]] = {}  # component -> for each of its 64 coefficients, the bits still to come
    for marker, start, end in segments(data):
        content = bytes(data[start + 4 : min(end, start + 1000)])
        if marker in _FRAMES and len(content) > 5:
            progressive = marker in _PROGRESSIVE
            components = set(content[6 : 6 + 3 * content[5] : 3])
        if marker == _SCAN and content and len(content) >= 4 + 2 * content[0]:
            names = content[1 : 1 + 2 * content[0] : 2]
            first, last, approximation = content[1 + 2 * len(names) : 4 + 2 * len(names)]
            for name in names:
                bits = missing.setdefault(name, [1] * 64)
                for i in range(first, min(last, 63) + 1) if progressive else range(64):
                    bits[i] = approximation & 15 if progressive else 0
    return bool(components) and all(not any(missing.get(name, [1])) for name in components)
