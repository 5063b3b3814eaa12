"""Request bodies in, response bodies out: the wire format of the image classifier.

A request is one image, or a list of instances:

* the raw content of an image file as the body;
* multipart form data with a part named ``data`` or ``body``;
* JSON ``{"instances": [{"b64": "<base64 of a file>"} or {"image_data": [[...]]}, ...]}``;
* JSON ``{"image_data": [[...]]}``: HxW or HxWx3, integers 0..255 or floats 0..1.

Over gRPC the same, as the value of the key ``data`` or ``body`` of ``PredictionsRequest.input``.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from .errors import InputError
from .images import from_nested_list, open_image
from .predictor import Prediction, as_json
from .spec import ImageSpec

MAX_INSTANCES = 64
"""Images in one JSON request."""

JSON_CONTENT_TYPE = "application/json"
_BODY_FIELDS = ("data", "body")


@dataclass(frozen=True)
class Request:
    """What one request asks: its images, each opened or refused."""

    items: tuple[Image.Image | InputError, ...]
    """Images within the limits, as :meth:`marquee.handlers.batch.BatchLoader.load` takes them; files are not decoded
    yet. Or
    the error of that item."""
    is_list: bool
    """True for ``{"instances": ...}``: the answer is a list too, even of one."""


def parse(fields: Mapping[str, Any], spec: ImageSpec) -> Request:
    """Reads one request as TorchServe hands it over; never raises InputError, an error is an item.

    Args:
        fields: ``{"body": bytes}`` for a raw body, ``{field: bytes}`` for multipart and gRPC; TorchServe has already
            parsed ``application/json`` and decoded ``text/*``.
        spec: how images are decoded.
    """
    try:
        body = _find_body(fields)
        if isinstance(body, (bytes, bytearray)):
            body = _parse_json(body) if _looks_like_json(body) else body
        if isinstance(body, (bytes, bytearray)):
            opener = _Opener(spec)
            return Request((opener.attempt(opener.file, body),), is_list=False)
        return _parse_document(body, spec)
    except InputError as error:
        return Request((error,), is_list=False)


def encode_answer(
    answers: Sequence[Prediction | InputError], is_list: bool, model: dict[str, str]
) -> tuple[int, bytes]:
    """The response to one request.

    Args:
        answers: one for each item of the request, in its order.
        is_list: see :class:`Request`.
        model: name, version, bundle digest and variant, sent with every answer.

    Returns:
        HTTP status and JSON body. A list is 200 when any of its items succeeded; otherwise its first error's status.
    """
    if not is_list:
        (answer,) = answers
        if isinstance(answer, InputError):
            return encode_error(answer)
        return 200, _dump({**as_json(answer), "model": model})
    items = [_error(answer) if isinstance(answer, InputError) else as_json(answer) for answer in answers]
    errors = [answer for answer in answers if isinstance(answer, InputError)]
    status = errors[0].status if len(errors) == len(answers) else 200
    return status, _dump({"predictions": items, "model": model})


def add_to_answer(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON body of an answer to one image with more fields."""
    return _dump({**json.loads(body), **fields})


def encode_error(error: InputError) -> tuple[int, bytes]:
    """HTTP status and the JSON body ``{"error": {"code", "message"}}``."""
    return error.status, _dump(_error(error))


def _error(error: InputError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _find_body(fields: Mapping[str, Any]) -> Any:
    for name in _BODY_FIELDS:
        if name in fields:
            body = fields[name]
            break
    else:
        if not fields:
            # `curl --data-binary @FILE` calls the file a form, and TorchServe then finds no field in it.
            raise InputError("empty", "no body arrived; send the file with curl -T FILE, or name its Content-Type")
        if len(fields) != 1:
            raise InputError("bad_request", f"expected a field named 'data' or 'body', got {sorted(fields)}")
        # A form or gRPC client that named its only part differently means that part.
        body = next(iter(fields.values()))
    if isinstance(body, str):  # sent as text/*
        return body.encode("utf-8", "replace")
    return body


def _looks_like_json(body: bytes | bytearray) -> bool:
    """No image format starts with a brace or a bracket, so the content decides even where the header is missing."""
    return body[:64].lstrip()[:1] in (b"{", b"[")


def _parse_json(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("bad_request", f"the body is not valid JSON: {error}") from error


class _Opener:
    """Opens the images of one request; together they may have as many pixels as a single one.

    Without a common budget, a request of 64 tiny files that decode to the limit would hold a worker for minutes. It is
    kept by what the files' headers say, so that it holds whatever is decoded first, and whether it can be.
    """

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec
        self._left = spec.max_pixels

    def file(self, data: bytes | bytearray) -> Image.Image:
        """An image file's content -> the image, not decoded yet."""
        return self._open(open_image, data)

    def instance(self, instance: Any) -> Image.Image:
        """``{"b64": ...}`` or ``{"image_data": ...}`` -> the image."""
        if isinstance(instance, dict) and "b64" in instance:
            return self.file(_decode_base64(instance["b64"]))
        if isinstance(instance, dict) and "image_data" in instance:
            return self._open(from_nested_list, instance["image_data"])
        raise InputError(
            "bad_request", 'expected {"b64": "..."} or {"image_data": [[...]]}, alone or within "instances"'
        )

    def attempt(self, open_one: Callable[[Any], Image.Image], value: Any) -> Image.Image | InputError:
        """``open_one(value)``, or the error of this item."""
        try:
            return open_one(value)
        except InputError as error:
            return error
        except MemoryError:
            # TorchServe answers a MemoryError with 507 for the whole batch.
            return InputError("too_large", "the server has not enough memory to read this image")

    def _open(self, open_one: Callable[[Any, ImageSpec], Image.Image], value: Any) -> Image.Image:
        try:
            image = open_one(value, replace(self._spec, max_pixels=max(1, self._left)))
        except InputError as error:
            if error.code == "too_many_pixels" and self._left < self._spec.max_pixels:
                limit = self._spec.max_pixels
                raise InputError(error.code, f"the images of one request may have {limit} pixels together") from error
            raise
        self._left -= image.width * image.height
        return image


def _parse_document(document: Any, spec: ImageSpec) -> Request:
    opener = _Opener(spec)
    if isinstance(document, dict) and "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list) or not instances:
            raise InputError("bad_request", "instances: expected a list with at least one item")
        if len(instances) > MAX_INSTANCES:
            raise InputError("too_many_instances", f"instances: {len(instances)} items; at most {MAX_INSTANCES}")
        return Request(tuple(opener.attempt(opener.instance, instance) for instance in instances), is_list=True)
    return Request((opener.attempt(opener.instance, document),), is_list=False)


def _decode_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InputError("bad_request", f"b64: not valid base64: {error}") from error
