"""The fields of a request that ask for an explanation, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..core.errors import InputError

METHODS = ("gradcam", "integrated_gradients", "occlusion")
AUTO = "auto"
_NUMBERS = {"window": (1, 4096), "stride": (1, 4096), "steps": (2, 1000)}
"""Setting -> smallest and largest value."""


@dataclass(frozen=True, kw_only=True)
class ExplanationRequest:
    """What is to be explained, and how."""

    method: str = AUTO
    """One of :data:`METHODS`; ``auto``: Grad-CAM where the model has a last feature map, else occlusion."""
    label: str | None = None
    """Whose evidence is shown; None: the answer's label."""
    window: int | None = None
    """Occlusion: side in pixels of the square that is covered; None: a seventh of the model's input."""
    stride: int | None = None
    """Occlusion: pixels from one square to the next; None: as dense as the time allows."""
    steps: int | None = None
    """Integrated gradients: points on the way from the baseline; None: as many as the time allows, at most 64."""

    def __post_init__(self) -> None:
        if self.method not in (AUTO, *METHODS):
            raise InputError("bad_request", f"method: expected {AUTO}, {', '.join(METHODS)}, got {self.method!r:.60}")
        if self.label is not None and not isinstance(self.label, str):
            raise InputError("bad_request", f"label: expected a name, got {self.label!r:.60}")
        for name, (least, most) in _NUMBERS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError("bad_request", f"{name}: expected {least} to {most}, got {value!r:.60}")


SETTINGS = tuple(field.name for field in fields(ExplanationRequest))


def parse(request: Mapping[str, Any], is_asked: bool) -> tuple[ExplanationRequest, dict[str, Any]] | None:
    """Takes the settings out of a request; what is left is a prediction's.

    JSON has them beside ``b64`` or ``image_data``, forms and gRPC as fields beside ``data``. Where nothing else says
    that an explanation is wanted, the field ``explain`` does.

    Args:
        request: as TorchServe hands it over (see :func:`marquee.handlers.core.payload.parse`).
        is_asked: True when it came to ``/explanations``.

    Returns:
        What is asked and the rest of the request; None for a prediction.

    Raises:
        InputError: ``bad_request``, a setting is wrong, or a list of instances came.
    """
    rest = dict(request)
    given = {name: rest.pop(name) for name in (*SETTINGS, "explain") if name in rest} if len(rest) > 1 else {}
    settings = {name: _text(value) for name, value in given.items()}
    lists = False
    for part, body in list(rest.items()):
        document = _document(body)
        if document is not None:
            settings |= {name: document.pop(name) for name in (*SETTINGS, "explain") if name in document}
            rest[part] = document
            lists = lists or "instances" in document
    explain = settings.pop("explain", False)
    if explain not in (True, False, "true", "false"):
        raise InputError("bad_request", f"explain: expected true or false, got {explain!r:.60}")
    if not is_asked and explain not in (True, "true"):
        return None
    if lists:
        raise InputError("bad_request", "an explanation is of one input; send each of the instances on its own")
    return ExplanationRequest(
        **{name: _number(name, value) for name, value in settings.items() if value is not None}
    ), rest


def may_be_asked(request: Mapping[str, Any]) -> bool:
    """Whether a prediction may hold the field ``explain``: cheap, since every prediction is looked at."""
    for name, value in request.items():
        if name == "explain" or (isinstance(value, dict) and "explain" in value):
            return True
        if isinstance(value, str) and '"explain"' in value:
            return True
        if isinstance(value, (bytes, bytearray)) and value[:64].lstrip()[:1] == b"{" and b'"explain"' in value:
            return True
    return False


def _document(body: Any) -> dict[str, Any] | None:
    """A copy of the JSON object that a body is; None where it is none: that is the prediction's to say."""
    if isinstance(body, dict):
        return dict(body)
    if isinstance(body, str):
        body = body.encode("utf-8", "replace")
    if isinstance(body, (bytes, bytearray)) and body[:64].lstrip()[:1] == b"{":
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None
    return None


def _text(value: Any) -> Any:
    """A form's field is text, a gRPC one bytes; JSON values stay what they are."""
    return bytes(value).decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else value


def _number(name: str, value: Any) -> Any:
    return int(value) if name in _NUMBERS and isinstance(value, str) and value.isascii() and value.isdigit() else value
