"""Predictions -> the answer to a request: typed tensors, and in two of them each item's error and its whole answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..json_text import dump_long
from ..output import Prediction
from ..payload import JSON_CONTENT_TYPE, MAX_ANSWER_BYTES, item_text
from ..quoting import shorten
from .datatypes import BYTES, DTYPES, pack
from .metadata import OutputTensor, TensorSpec
from .wire import BINARY_SIZE, HEADER_LENGTH

Answers = Sequence[Prediction | InputError]

ERROR = TensorSpec(name="error", datatype=BYTES)
"""Why an item has no prediction; empty where it has one."""
ANSWER = TensorSpec(name="answer", datatype=BYTES)
"""An item's answer, or its error, as the JSON that it has elsewhere: everything that is known of it."""
OF_EVERY_MODEL = (ERROR, ANSWER)

BINARY_CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Response:
    """What goes back to a client."""

    status: int
    body: bytes
    content_type: str = JSON_CONTENT_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """How one request wants its answer."""

    id: str | None = None
    """Repeated where it is given."""
    outputs: tuple[tuple[TensorSpec, bool], ...] = ()
    """In their order, and for each whether it comes as raw bytes."""

    def encode(self, answers: Answers, model: Mapping[str, str]) -> Response:
        """The answer.

        Args:
            answers: one for each item of the request, in its order, at least one.
            model: name, version, bundle digest and variant.

        Returns:
            200 when any of the items succeeded; otherwise the status of the first error, and ``{"error": text}``.
        """
        errors = [answer for answer in answers if isinstance(answer, InputError)]
        if len(errors) == len(answers):
            return refuse(errors[0], len(answers))
        if sum(_least_size(tensor, len(answers), is_binary) for tensor, is_binary in self.outputs) > MAX_ANSWER_BYTES:
            return _too_long(len(answers))
        heads, raws = [], []
        for tensor, is_binary in self.outputs:
            values = values_of(tensor, answers)
            head = {**tensor.as_json(), "shape": [len(answers), *tensor.shape[1:]]}
            if is_binary:
                raws.append(pack(values, tensor.datatype))
                head["parameters"] = {BINARY_SIZE: len(raws[-1])}
            else:
                head["data"] = _jsonable(values)
            heads.append(head)
        text = dump_long({**self._head(model), "outputs": heads})
        if len(text) + sum(map(len, raws)) > MAX_ANSWER_BYTES:
            return _too_long(len(answers))
        if not raws:
            return Response(200, text)
        return Response(200, b"".join([text, *raws]), BINARY_CONTENT_TYPE, {HEADER_LENGTH: str(len(text))})

    def _head(self, model: Mapping[str, str]) -> dict[str, Any]:
        head = {"model_name": model["name"], "model_version": model["version"]}
        if self.id is not None:
            head["id"] = self.id
        return {**head, "parameters": {name: model[name] for name in ("bundle", "variant")}}


def refuse(error: InputError, items: int = 1) -> Response:
    """The answer to a request without any prediction: an error is a text in this protocol."""
    message = error.message if items == 1 else f"none of {items} items can be used; {error.message}"
    return Response(error.status, dump_long({"error": _utf8(shorten(message))}))


def _too_long(items: int) -> Response:
    size = f"the answer to {items} items has more than the {MAX_ANSWER_BYTES:,} bytes that can be sent"
    return refuse(InputError("too_large", f"{size}; ask for fewer outputs, or send fewer items"))


def _least_size(tensor: TensorSpec, items: int, is_binary: bool) -> int:
    """Bytes that an output has at least; a long one is not written only to be refused."""
    element = DTYPES[tensor.datatype].itemsize if is_binary and tensor.datatype in DTYPES else 2  # "0,"
    return items * math.prod(tensor.shape[1:]) * element


def values_of(tensor: TensorSpec, answers: Answers) -> Any:
    """The values of one output: a flat list of text for ``BYTES``, else an array (items, ...)."""
    if tensor is ERROR:
        return [_utf8(shorten(answer.message)) if isinstance(answer, InputError) else "" for answer in answers]
    if tensor is ANSWER:
        return [item_text(answer) for answer in answers]
    if not isinstance(tensor, OutputTensor):
        raise TypeError(f"{tensor.name}: an output says how it is read from a prediction")
    read, empty = tensor.read, tensor.empty
    if tensor.datatype == BYTES:
        return [empty if isinstance(answer, InputError) else read(answer) for answer in answers]
    good = [place for place, answer in enumerate(answers) if not isinstance(answer, InputError)]
    values = np.full((len(answers), *tensor.shape[1:]), empty, DTYPES[tensor.datatype])
    values[good] = [read(answers[place]) for place in good]
    return values


def _jsonable(values: Any) -> list[Any]:
    """A flat list; JSON has no NaN, and clients read null as one."""
    if not isinstance(values, np.ndarray):
        return list(values)
    flat = values.ravel()
    if values.dtype.kind == "f" and (missing := np.isnan(flat)).any():
        flat = flat.astype(object)
        flat[missing] = None
    plain: list[Any] = flat.tolist()
    return plain


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
