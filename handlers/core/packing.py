"""Bodies that a client has compressed: gzip, and zlib, which HTTP calls deflate.

TorchServe hands them over as they came, whatever ``Content-Encoding`` says, so they are known by their first bytes.
"""

import zlib

from .errors import InputError

MOST_UNPACKED = 32 << 20
"""Bytes of an unpacked body: as many as ``config.properties`` lets a body have that is not packed."""
_MOST_MEMBERS = 4_096
"""Streams of gzip one after the other in a body, as block-wise compressors write them; each costs time, even empty."""
_CHUNK = 1 << 16
_GZIP = b"\x1f\x8b\x08"
_DEFLATE = 0x08
"""The method in the first byte of a zlib stream; its first two bytes, as one number, are a multiple of 31."""


def unpack(body: bytes | bytearray) -> bytes | bytearray:
    """The body itself where it is not packed, else its content.

    Raises:
        InputError: ``bad_request``: the packed data is damaged or incomplete; ``too_large``: its content is.
    """
    if body[:3] == _GZIP:
        try:
            return _inflate(body, zlib.MAX_WBITS | 16)
        except (zlib.error, EOFError) as error:
            raise InputError("bad_request", "the body is gzip, but is damaged or incomplete") from error
    if len(body) > 2 and body[0] == 0x78 and int.from_bytes(body[:2], "big") % 31 == 0:
        try:
            return _inflate(body, zlib.MAX_WBITS)
        except (zlib.error, EOFError):
            pass  # a text may begin with these two letters
    return body


def _inflate(body: bytes | bytearray, window: int) -> bytes:
    """The content of all streams in a body, in memory that is bounded whatever they say."""
    content = bytearray()
    members = 0
    stream = zlib.decompressobj(window)
    for start in range(0, len(body), _CHUNK):
        rest = body[start : start + _CHUNK]
        while rest:
            if stream.eof:
                rest = rest.lstrip(b"\0")  # padding, as tape writers leave it
                if not rest:
                    break
                members += 1
                if members > _MOST_MEMBERS:
                    raise InputError("too_large", f"the body has more than {_MOST_MEMBERS} gzip streams")
                stream = zlib.decompressobj(window)
            content += stream.decompress(rest, MOST_UNPACKED + 1 - len(content))
            if len(content) > MOST_UNPACKED:
                raise InputError("too_large", f"the body unpacks to more than {MOST_UNPACKED} bytes")
            rest = stream.unconsumed_tail or stream.unused_data
    if not stream.eof:
        raise EOFError
    return bytes(content)
