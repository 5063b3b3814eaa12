"""``{"instances": [...]}`` in, ``{"predictions": [...]}`` out: what KServe, TF Serving and Vertex AI have in common."""

import json
from dataclasses import replace
from typing import Any

from marquee.gateway.backend import Reply
from marquee.gateway.doors.json_answer import dump
from marquee.gateway.doors.text_errors import text_error

_LISTS = (b'{"predictions"', b'{"outputs"')


def as_predictions(reply: Reply) -> Reply:
    """The handler's reply as these protocols have it: always a list, and an error is a text.

    A list is passed on without being parsed.
    """
    if reply.status >= 400:
        return text_error(reply)
    if reply.body.startswith(_LISTS):
        return reply
    try:
        document: Any = json.loads(reply.body)
    except (ValueError, RecursionError):
        return reply  # of an archive with answers of its own
    if isinstance(document, dict) and "predictions" in document:
        return reply
    return replace(reply, body=dump({"predictions": [document]}))
