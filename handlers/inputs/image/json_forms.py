"""In which member of a JSON object a client sends an image: ours, and those that clients of other servers use.

* ``{"b64": "<base64>"}``, ``{"image_data": [[...]]}`` with an optional ``range``;
* ``{"data": "<base64>"}``, ``{"body": "<base64>"}``: TorchServe's own handlers, KServe's samples for them;
* ``{"image_bytes": {"b64": "<base64>"}}``, or any other name: how TensorFlow Serving marks binary values;
* ``{"content": "<base64>"}``: Vertex AI's models of images;
* the base64 alone, as a text; nested lists of numbers alone.

``{"inputs": ...}`` around them is TensorFlow Serving's form by columns: an image, a list of them, or either of these by
the name of a tensor. Beside it, as beside ``instances``, ``signature_name`` and ``parameters`` are not looked at.
"""

from typing import Any, NamedTuple

from ...core.errors import InputError
from ...core.quoting import quote, quote_names

IMAGE_DATA = "image_data"
_OWN = ("b64", IMAGE_DATA)
_OTHERS = ("data", "body", "image_bytes", "image")
_LAST = ("content",)
"""Where there is nothing else that may be an image: the name says little."""
_LONGEST_NOTE = 100
"""Characters of a text that may stand beside an image, such as the name of its file: base64 of an image has more."""
_EXPECTED = 'expected {"b64": "..."} or {"image_data": [[...]]}, alone or within "instances"'


class Member(NamedTuple):
    """The part of a JSON value that is the image."""

    name: str
    """For messages."""
    value: Any
    """Base64 as text; for ``image_data`` nested lists."""
    is_numbers: bool = False
    """Whether it is nested lists of numbers."""
    value_range: Any = None
    """What the client says of them: the value of ``range``."""


def find_image(value: Any) -> Member:
    """Finds the image in one JSON value.

    Raises:
        InputError: ``bad_request``: there is none, or more than one.
    """
    if isinstance(value, str):
        return Member("the text", value)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return Member(IMAGE_DATA, value, is_numbers=True)
    if not isinstance(value, dict):
        raise InputError("bad_request", f"{_EXPECTED}, got {quote(value)}")
    name = _name(value)
    content = value[name]
    if name == IMAGE_DATA:
        return Member(name, content, is_numbers=True, value_range=value.get("range"))
    if isinstance(content, dict) and "b64" in content:
        return Member(f"{name}: b64", content["b64"])
    return Member(name, content)


def find_columns(document: Any) -> list[Any] | None:
    """The images of TensorFlow Serving's form by columns, each as :func:`find_image` reads it; None for another form.

    Raises:
        InputError: ``bad_request``: it is that form, and does not hold images.
    """
    names = ("instances", *_OWN, *_OTHERS)
    if not isinstance(document, dict) or "inputs" not in document or any(name in document for name in names):
        return None
    images = document["inputs"]
    if isinstance(images, dict) and not any(name in images for name in _OWN):
        if len(images) != 1:
            given = quote_names(images, len(images)) if images else "none"
            raise InputError("bad_request", f"inputs: expected one tensor, which holds images, got {given}")
        (images,) = images.values()
    images = images if isinstance(images, list) else [images]
    if not images:
        raise InputError("bad_request", "inputs: expected at least one image")
    return images


def _name(document: dict[str, Any]) -> str:
    """The name of the one member that is an image."""
    own = [name for name in _OWN if name in document]
    others = [name for name in _OTHERS if name in document]
    if own:
        # Beside these, other members were always ignored: only what must be a second image is refused.
        found = [*own, *(name for name in others if _may_be_image(document[name]))]
    else:
        found = others or [name for name, member in document.items() if isinstance(member, dict) and "b64" in member]
        found = found or [name for name in _LAST if name in document]
    if not found:
        raise InputError("bad_request", _EXPECTED)
    if len(found) > 1:
        first, second = map(quote, found[:2])
        raise InputError("bad_request", f'both {first} and {second} hold an image; send several within "instances"')
    return found[0]


def _may_be_image(member: Any) -> bool:
    return isinstance(member, dict) or (isinstance(member, str) and len(member) > _LONGEST_NOTE)
