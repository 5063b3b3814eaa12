"""A request: which bodies are one, and what they ask."""

import json
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..payload import find_body
from ..quoting import quote
from .datatypes import WireError
from .tensor import CONTENT_TYPE, Tensor, read_parameters, read_tensor
from .wire import BINARY, BINARY_OUTPUT, HEADER_LENGTH, parse_length, split, take_raw

MOST_TENSORS = 10_000
"""Tensors of one request: a table has one for each column."""
_MEMBERS = frozenset({"name", "datatype", "shape"})
_ALL = _MEMBERS | {"data", "parameters"}


@dataclass(frozen=True)
class Message:
    """A body that is a request of the protocol, not read yet."""

    body: Any
    """A document, or bytes."""
    length: str | None = None
    """The header :data:`~.wire.HEADER_LENGTH`."""


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for."""

    name: str
    is_binary: bool


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What a request says beside its tensors."""

    id: str | None = None
    """As the client calls the request; None: it does not."""
    outputs: tuple[Wanted, ...] | None = None
    """Outputs that are asked for, in their order; None: all."""
    is_binary: bool = False
    """Whether outputs come as raw bytes that say nothing of it."""


def find_message(fields: Mapping[str, Any], headers: Mapping[str, Any]) -> Message | None:
    """The request of the protocol in what the server hands over; None where there is none.

    That is a body with the header of binary data, or a document of whose ``inputs`` each is an object with a name, a
    datatype and a shape: a row of a table may be called ``inputs``, too.

    Args:
        fields: of the request, unpacked.
        headers: of the request; case does not matter.
    """
    length = _header(headers, HEADER_LENGTH)
    try:
        body = find_body(fields)
    except InputError:
        return None if length is None else Message(b"", length)
    if length is not None:
        return Message(body, length)
    document = as_document(body, b'"datatype"')
    return Message(document) if document is not None and is_inference(document) else None


def as_document(body: Any, word: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is, where it is parsed already or has the word in it: parsing may take long."""
    if isinstance(body, (bytes, bytearray)) and body[:64].lstrip()[:1] == b"{" and word in body:
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, dict) else None


def is_inference(document: Mapping[str, Any]) -> bool:
    """Whether each of its ``inputs`` is what the protocol calls a tensor."""
    inputs = document.get("inputs")
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and all(isinstance(tensor, dict) and tensor.keys() >= _MEMBERS for tensor in inputs)
    )


def find_nearly(fields: Mapping[str, Any]) -> Message | None:
    """A request that is meant so, but in which a tensor lacks a member; None where there is none.

    Only for what cannot be read as anything else.
    """
    try:
        document = as_document(find_body(fields), b'"inputs"')
    except InputError:
        return None
    inputs = document.get("inputs") if document is not None else None
    if isinstance(inputs, list) and any(isinstance(tensor, dict) and _is_nearly(tensor.keys()) for tensor in inputs):
        return Message(document)
    return None


def _is_nearly(members: Set[str]) -> bool:
    """Whether an object lacks a member of a tensor, and has none that a tensor has not."""
    return "name" in members and len(members & _MEMBERS) > 1 and members <= _ALL


def _header(headers: Mapping[str, Any], name: str) -> str | None:
    """A header by its name in any case; TorchServe's own look-up wants it as the client wrote it."""
    for key, value in headers.items():
        if key.lower() == name and isinstance(value, str):
            return value
    return None


def read_document(message: Message) -> tuple[dict[str, Any], memoryview]:
    """The document of a request and the bytes behind it.

    Raises:
        WireError: there is no document.
    """
    nothing = memoryview(b"")
    if isinstance(message.body, (bytes, bytearray)):
        if not message.body:
            raise WireError("the body is empty")
        return split(message.body, message.length)
    if not isinstance(message.body, dict):
        raise WireError(f"expected a JSON object, got {quote(message.body)}")
    return message.body, nothing


def is_raw(message: Message) -> bool:
    """Whether the body is the only tensor's content, without a document: its length is 0, as Triton has it."""
    return message.length is not None and parse_length(message.length) == 0


def read_envelope(document: Mapping[str, Any]) -> Envelope:
    """Everything but the tensors.

    Raises:
        WireError: a member is not what the protocol says.
    """
    id = document.get("id")  # noqa: A001 - the protocol's word
    if id is not None and (not isinstance(id, str) or not _is_text(id)):
        raise WireError(f"id: expected a text, got {quote(id)}")
    is_binary = _flag(read_parameters(document), BINARY_OUTPUT, False)
    outputs = document.get("outputs")
    if outputs is None or outputs == []:
        return Envelope(id=id, is_binary=is_binary)
    if not isinstance(outputs, list):
        raise WireError(f"outputs: expected a list of objects with a name, got {quote(outputs)}")
    wanted = tuple(_wanted(output, is_binary) for output in outputs)
    for name, count in Counter(output.name for output in wanted).items():
        if count > 1:
            raise WireError(f"outputs: {quote(name)} is there {count} times")
    return Envelope(id=id, outputs=wanted, is_binary=is_binary)


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode() == text


def _wanted(output: Any, is_binary: bool) -> Wanted:
    name = output.get("name") if isinstance(output, dict) else None
    if not isinstance(name, str):
        raise WireError(f"outputs: expected objects with a name, got {quote(output)}")
    return Wanted(name, _flag(read_parameters(output), BINARY, is_binary))


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise WireError(f"{name}: expected true or false, got {quote(value)}")
    return value


def read_tensors(document: Mapping[str, Any], rest: memoryview, most: int) -> tuple[Tensor, ...]:
    """The tensors of a request.

    Args:
        document: of the request.
        rest: the bytes behind it.
        most: items that a request may have.

    Raises:
        InputError: one of them is none.
        WireError: the document has none, or the bytes are not theirs.
    """
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise WireError("inputs: expected a list of at least one tensor")
    if len(inputs) > MOST_TENSORS:
        raise WireError(f"inputs: {len(inputs)} tensors; at most {MOST_TENSORS}")
    parameters = read_parameters(document)
    inherited = {name: parameters[name] for name in (CONTENT_TYPE,) if name in parameters}
    tensors: dict[str, Tensor] = {}
    for head, raw in zip(inputs, take_raw(inputs, rest), strict=True):
        tensor = read_tensor(head, raw, inherited, most)
        if tensor.name in tensors:
            raise WireError(f"tensor {quote(tensor.name)} is there twice")
        tensors[tensor.name] = tensor
    return tuple(tensors.values())
