"""Request bodies in, response bodies out: the envelope around the items of any kind of input.

A request is one item, or a list of instances:

* the raw content of a file as the body;
* multipart form data with a part named ``data`` or ``body``;
* JSON ``{"instances": [...]}``, each an item as its kind of input spells it in JSON (:meth:`Opener.instance`);
* JSON of one item;
* what the kind of input has of its own (:meth:`marquee.handlers.core.input.Opener.items`), such as CSV for rows;
* any of these packed with gzip or zlib.

Over gRPC the same, as the value of the key ``data`` or ``body`` of ``PredictionsRequest.input``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .input import Input, Opener, attempt
from .json_text import dump_long
from .output import Prediction
from .packing import unpack
from .quoting import quote, quote_names, shorten

MANY_ITEMS = 64
"""A list of more is written by a faster library, and is one error where all of its items failed: TorchServe cuts an
answer that is an error and long (seen with 0.12.0)."""

MAX_ANSWER_BYTES = 8_000_000
"""Size of an answer above which it is an error: TorchServe ends a worker whose answer exceeds ``max_response_size``,
which is 8 MiB in ``config.properties`` (seen with 0.12.0)."""
JSON_CONTENT_TYPE = "application/json"
_BODY_FIELDS = ("data", "body")
_NO_FORM = "curl -d and --data-binary send a form: use curl -T FILE, or name the Content-Type"
_SEVERAL = 'several as {"instances": [...]}'


@dataclass(frozen=True)
class Request:
    """What one request asks: its items, each opened or refused."""

    items: tuple[Any, ...]
    """As :meth:`marquee.handlers.core.input.Input.collate` takes them, or the error of that item."""
    is_list: bool
    """True for ``{"instances": ...}``: the answer is a list too, even of one."""


@dataclass(frozen=True)
class Repeated:
    """Stands in the fields of a request for parts of a form that have the same name (see :mod:`.repeated_parts`)."""

    count: int
    """How many they are."""


def unpack_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request, with the content of a body that is packed in its place.

    What cannot be unpacked stays as it is: :func:`parse` says why.
    """
    named = [name for name in _BODY_FIELDS if name in fields] or (list(fields) if len(fields) == 1 else [])
    try:
        content = {name: unpack(fields[name]) for name in named if isinstance(fields[name], (bytes, bytearray))}
    except InputError:
        return fields
    return {**fields, **content} if content else fields


def parse(fields: Mapping[str, Any], source: Input) -> Request:
    """Reads one request as TorchServe hands it over; never raises InputError, an error is an item.

    Args:
        fields: ``{"body": bytes}`` for a raw body, ``{field: bytes}`` for multipart and gRPC, with :class:`Repeated`
            for parts of the same name; TorchServe has already parsed ``application/json`` and decoded ``text/*``.
        source: opens the items.
    """
    try:
        body, opener = find_body(fields), source.opener()
        if isinstance(body, (bytes, bytearray)):
            body = unpack(body)
        whole = opener.items(body)
        if whole is None and isinstance(body, (bytes, bytearray)) and _looks_like_json(body):
            body = _parse_json(body)
            whole = opener.items(body)
        if whole is not None:
            items, is_list = whole
            return Request(tuple(items), is_list)
        if isinstance(body, (bytes, bytearray)):
            return Request((attempt(opener.file, body),), is_list=False)
        return _parse_document(body, opener, source.max_items)
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
        return 200, _dump({**answer.as_json(), "model": model})
    items = [_error(answer) if isinstance(answer, InputError) else answer.as_json() for answer in answers]
    errors = [answer for answer in answers if isinstance(answer, InputError)]
    status = errors[0].status if len(errors) == len(answers) else 200
    if len(answers) <= MANY_ITEMS:
        return status, _dump({"predictions": items, "model": model})
    if status != 200:
        first = errors[0]
        return first.status, _dump(_error_of(first.code, f"none of {len(answers)} items can be used; {first.message}"))
    body = dump_long({"predictions": items, "model": model})
    if len(body) > MAX_ANSWER_BYTES:
        size = f"the answer to {len(answers)} items has {len(body):,} bytes; at most {MAX_ANSWER_BYTES:,} can be sent"
        return encode_error(InputError("too_large", f"{size}; send fewer items in a request"))
    return status, body


def add_to_answer(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON body of an answer to one item with more fields."""
    return _dump({**json.loads(body), **fields})


def item_text(answer: Prediction | InputError) -> str:
    """The JSON of one item of a list, or of its error."""
    return dump_long(_error(answer) if isinstance(answer, InputError) else answer.as_json()).decode()


def encode_error(error: InputError) -> tuple[int, bytes]:
    """HTTP status and the JSON body ``{"error": {"code", "message"}}``."""
    return error.status, _dump(_error(error))


def _error(error: InputError) -> dict[str, Any]:
    return _error_of(error.code, error.message)


def _error_of(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": shorten(message)}}


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def find_body(fields: Mapping[str, Any]) -> Any:
    """The body among the fields of a request: bytes, or JSON that TorchServe has parsed.

    Raises:
        InputError: there is none, or it is not clear which it is.
    """
    name = _name_of_body(fields)
    body = fields[name]
    if isinstance(body, Repeated):
        raise InputError("bad_request", f"{body.count} parts are named {quote(name)}; send one, or {_SEVERAL}")
    if isinstance(body, str):  # sent as text/*
        return body.encode("utf-8", "replace")
    return body


def _name_of_body(fields: Mapping[str, Any]) -> str:
    named = [name for name in _BODY_FIELDS if name in fields]
    if len(named) > 1:
        # A form of a web page sends its empty fields, too.
        filled = [name for name in named if fields[name] not in (b"", "")]
        if len(filled) > 1:
            raise InputError("bad_request", f"both 'data' and 'body' arrived; send one of them, or {_SEVERAL}")
        return (filled or named)[0]
    if named:
        return named[0]
    if not fields:
        # A form in which TorchServe finds no field: JSON, or base64, that curl calls a form. Of nearly all image files
        # that are sent so its form decoder makes a 500, and they do not get here.
        raise InputError("empty", f"no body arrived; {_NO_FORM}")
    if len(fields) != 1:
        names = quote_names(fields, len(fields))
        raise InputError("bad_request", f"expected a field named 'data' or 'body', got {names}")
    # A form or gRPC client that named its only part differently means that part.
    return next(iter(fields))


def _looks_like_json(body: bytes | bytearray) -> bool:
    """No file of ours starts with a brace or a bracket, so the content decides even where the header is missing."""
    return body[:64].lstrip()[:1] in (b"{", b"[")


def _parse_json(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("bad_request", f"the body is not valid JSON: {error}") from error


def _parse_document(document: Any, opener: Opener, limit: int) -> Request:
    if isinstance(document, dict) and "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list) or not instances:
            raise InputError("bad_request", "instances: expected a list with at least one item")
        if len(instances) > limit:
            raise InputError("too_many_instances", f"instances: {len(instances)} items; at most {limit}")
        return Request(tuple(attempt(opener.instance, instance) for instance in instances), is_list=True)
    return Request((attempt(opener.instance, document),), is_list=False)
