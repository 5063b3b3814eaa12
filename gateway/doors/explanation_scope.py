"""Whether a prediction asks for an explanation, for which a key needs a scope of its own."""

import asyncio

from marquee.gateway.form_fields import FORM, fields_of
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import unpack_fields
from marquee.handlers.explain.request import is_asked_for

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""How JPEG and PNG files begin, in which nothing can be asked: neither JSON nor what is packed begins like this."""
_PACKED = (b"\x1f", b"\x78")
"""How gzip and zlib begin."""
_FORMS = (FORM, "multipart/")
_LARGE = 1 << 20
"""Bytes of a body that is looked into in a thread: it would hold up others for milliseconds."""


async def asks_explanation(body: bytes, content_type: str) -> bool:
    """As the handler finds out; it does not know of keys.

    Args:
        body: of the call to the handler.
        content_type: with which it goes there.
    """
    is_form = content_type.strip().lower().startswith(_FORMS)
    is_packed = body.startswith(_PACKED)
    # Names of a form may be encoded, and its parts packed; elsewhere the word is there, or is written with escapes.
    if not is_form and (body.startswith(_IMAGES) or not (is_packed or b"explain" in body or b"\\u" in body)):
        return False
    if is_packed or len(body) > _LARGE:
        return await asyncio.to_thread(_look, body, content_type)
    return _look(body, content_type)


def _look(body: bytes, content_type: str) -> bool:
    try:
        return is_asked_for(unpack_fields(fields_of(body, content_type)))
    except InputError:
        return False  # the handler refuses it
