"""How many items an answer is about."""

from typing import Any

import orjson

from marquee.gateway.backend import Reply

_JSON_LENGTH = "inference-header-content-length"
"""Of an answer with binary tensors, which follow the JSON."""


def count_items(reply: Reply) -> int:
    """The number of images or rows that a request held, as its answer tells: at least 1.

    A list of predictions has one for each, and the tensors of an answer of the Open Inference Protocol have them as
    their first dimension.
    """
    length = reply.headers.get(_JSON_LENGTH, "")
    body = reply.body[: int(length)] if length.isascii() and length.isdigit() else reply.body
    try:
        document = orjson.loads(body)
    except ValueError:
        return 1  # an answer to one item may be anything
    return max(1, _count(document)) if isinstance(document, dict) else 1


def _count(document: dict[str, Any]) -> int:
    predictions, outputs = document.get("predictions"), document.get("outputs")
    if isinstance(predictions, list):
        return len(predictions)
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
        shape = outputs[0].get("shape")
        if isinstance(shape, list) and shape and isinstance(shape[0], int):
            return shape[0]
    return 1
