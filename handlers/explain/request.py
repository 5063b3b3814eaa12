"""The fields of a request that ask for an explanation, and how."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..core.errors import InputError

METHODS = ("gradcam", "integrated_gradients", "occlusion")
"""Of images."""
ROW_METHODS = ("shapley", "occlusion")
"""Of rows of a table."""
AUTO = "auto"
ONE_INPUT = "an explanation is of one input; send each of the instances on its own"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is to be explained, and how: what every kind of input has; each has a class of its own."""

    methods: ClassVar[tuple[str, ...]]
    numbers: ClassVar[Mapping[str, tuple[int, int]]]
    """Setting that is a number -> its smallest and largest value."""
    may_be_a_list: ClassVar[bool]
    """Whether the one input may come in a list, as kinds of input do that are usually sent in one."""

    method: str = AUTO
    """One of :attr:`methods`; ``auto``: the one that suits the model."""
    label: str | None = None
    """Whose evidence is shown; None: the answer's label."""

    def __post_init__(self) -> None:
        if self.method not in (AUTO, *self.methods):
            expected = ", ".join((AUTO, *self.methods))
            raise InputError("bad_request", f"method: expected {expected}, got {self.method!r:.60}")
        if self.label is not None and not isinstance(self.label, str):
            raise InputError("bad_request", f"label: expected a name, got {self.label!r:.60}")
        for name, (least, most) in self.numbers.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InputError("bad_request", f"{name}: expected {least} to {most}, got {value!r:.60}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The fields of a request that are settings."""
        return (*(field.name for field in fields(cls)), "explain")


@dataclass(frozen=True, kw_only=True)
class ExplanationRequest(Settings):
    """Of an image; ``auto``: Grad-CAM where the model has a last feature map, else occlusion."""

    methods: ClassVar[tuple[str, ...]] = METHODS
    numbers: ClassVar[Mapping[str, tuple[int, int]]] = {"window": (1, 4096), "stride": (1, 4096), "steps": (2, 1000)}
    may_be_a_list: ClassVar[bool] = False

    window: int | None = None
    """Occlusion: side in pixels of the square that is covered; None: a seventh of the model's input."""
    stride: int | None = None
    """Occlusion: pixels from one square to the next; None: as dense as the time allows."""
    steps: int | None = None
    """Integrated gradients: points on the way from the baseline; None: as many as the time allows, at most 64."""


@dataclass(frozen=True, kw_only=True)
class RowRequest(Settings):
    """Of a row of a table; ``auto``: Shapley values."""

    methods: ClassVar[tuple[str, ...]] = ROW_METHODS
    numbers: ClassVar[Mapping[str, tuple[int, int]]] = {"samples": (2, 1000)}
    may_be_a_list: ClassVar[bool] = True

    samples: int | None = None
    """Shapley values: pairs of permutations for each row of the background; None: all coalitions where the time allows
    it, else as many pairs as it allows."""


def no_names(document: Mapping[str, Any]) -> Collection[str]:
    """Of an object in which every setting is one."""
    return ()


def one_input(body: Any) -> int:
    """How many inputs a body holds where it cannot hold a list of them."""
    return 1


def parse(
    request: Mapping[str, Any],
    is_asked: bool,
    kind: type[Settings] = ExplanationRequest,
    own_names: Callable[[Mapping[str, Any]], Collection[str]] = no_names,
    max_bytes: int | None = None,
) -> tuple[Settings, dict[str, Any]] | None:
    """Takes the settings out of a request; what is left is a prediction's.

    JSON has them beside the input (``b64``, ``image_data``, ``instances``), forms and gRPC as fields beside ``data``.
    Where nothing else says that an explanation is wanted, the field ``explain`` does.

    Args:
        request: as TorchServe hands it over (see :func:`marquee.handlers.core.payload.parse`).
        is_asked: True when it came to ``/explanations``.
        kind: the settings that this kind of input has.
        own_names: of a JSON object the names that are never settings, since they may be the input's own.
        max_bytes: size of a body above which it is not looked into: the prediction refuses it. None: any size.

    Returns:
        What is asked, a ``kind``, and the rest of the request; None for a prediction.

    Raises:
        InputError: ``bad_request``, a setting is wrong, or a list of instances came.
    """
    rest, names = dict(request), kind.names()
    settings = {name: _text(rest.pop(name)) for name in names if name in rest} if len(rest) > 1 else {}
    lists = False
    for part, body in list(rest.items()):
        document = None if max_bytes is not None and _size(body) > max_bytes else _document(body)
        if document is not None:
            own = own_names(document)
            settings |= {name: document.pop(name) for name in names if name in document and name not in own}
            rest[part] = document
            lists = lists or "instances" in document
    explain = settings.pop("explain", False)
    if explain not in (True, False, "true", "false"):
        raise InputError("bad_request", f"explain: expected true or false, got {explain!r:.60}")
    if not is_asked and explain not in (True, "true"):
        return None
    if lists and not kind.may_be_a_list:
        raise InputError("bad_request", ONE_INPUT)
    given = {name: _number(kind, name, value) for name, value in settings.items() if value is not None}
    return kind(**given), rest


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


def is_asked_for(request: Mapping[str, Any]) -> bool:
    """Whether a prediction asks for an explanation by one of its fields, whatever its settings, and also in vain.

    For those who decide who may ask: :func:`parse` refuses settings that another kind of input has.

    Args:
        request: see :func:`parse`.
    """
    if not may_be_asked(request):
        return False
    said = [_text(request["explain"])] if "explain" in request and len(request) > 1 else []
    documents = [document for body in request.values() if (document := _document(body)) is not None]
    said += [document["explain"] for document in documents if "explain" in document]
    return any(value not in (False, "false") for value in said)


def _size(body: Any) -> int:
    """Bytes of a body, at least; 0 of one that the server has parsed."""
    return len(body) if isinstance(body, (str, bytes, bytearray)) else 0


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


def _number(kind: type[Settings], name: str, value: Any) -> Any:
    is_digits = name in kind.numbers and isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if is_digits else value
