"""Messages with the binary tensor data extension, in both directions: a JSON document, then the raw bytes of tensors.

The length of the document goes beside the body, as the header :data:`HEADER_LENGTH`; each tensor whose values are not
in the document says in its parameter ``binary_data_size`` how many of the bytes behind it are its own, in the order of
the tensors. A gateway that gets tensors in another way, as gRPC does, writes a request and reads the answer with::

    body, length = encode_request([RawTensor(name="x", datatype="FP32", shape=(2,), raw=pack([0.5, 1], "FP32"))])
    reply = ...  # sent with the header HEADER_LENGTH: str(length)
    document, outputs = decode_answer(reply.body, reply.headers.get(HEADER_LENGTH))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .datatypes import WireError, pack

HEADER_LENGTH = "inference-header-content-length"
"""Name of the header, in lower case; its value is a decimal number."""
BINARY_SIZE = "binary_data_size"
BINARY_OUTPUT = "binary_data_output"
"""Parameter of a request: all outputs come as raw bytes, but for those that say otherwise."""
BINARY = "binary_data"
"""Parameter of one output that is asked for: whether it comes as raw bytes."""


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """A tensor whose values are raw bytes (see :mod:`.datatypes`)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Without ``binary_data_size``."""

    def head(self) -> dict[str, Any]:
        """What stands in the document in place of its values."""
        sizes = {**self.parameters, BINARY_SIZE: len(self.raw)}
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape), "parameters": sizes}


def encode_request(
    inputs: Sequence[RawTensor],
    *,
    id: str = "",  # noqa: A002 - the protocol's word
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[Mapping[str, Any]] = (),
) -> tuple[bytes, int]:
    """A request whose answer has raw outputs.

    Args:
        inputs: in their order.
        id: of the request; the answer repeats it where it is not empty.
        parameters: of the request.
        outputs: those that are asked for, as ``{"name": ...}``, with or without ``parameters``; none: all.

    Returns:
        The body, and the value of :data:`HEADER_LENGTH`.
    """
    document: dict[str, Any] = {"id": id} if id else {}
    document["parameters"] = {**(parameters or {}), BINARY_OUTPUT: True}
    if outputs:
        document["outputs"] = [dict(output) for output in outputs]
    return join({**document, "inputs": [tensor.head() for tensor in inputs]}, [tensor.raw for tensor in inputs])


def decode_answer(body: bytes | memoryview, length: str | int | None) -> tuple[dict[str, Any], list[RawTensor]]:
    """An answer that is not an error.

    Args:
        body: of the answer.
        length: the value of :data:`HEADER_LENGTH`; None: the body is the document alone.

    Returns:
        The document without its ``outputs``, and these, in their order; those whose values are in the document are
        packed.

    Raises:
        WireError: it is no such answer.
    """
    document, rest = split(body, length)
    heads = document.pop("outputs", None)
    if not isinstance(heads, list):
        raise WireError("the answer has no outputs")
    raws = iter(take_raw(heads, rest))
    return document, [_output(head, next(raws)) for head in heads]


def _output(head: Any, raw: memoryview | None) -> RawTensor:
    try:
        parameters = {name: value for name, value in head.get("parameters", {}).items() if name != BINARY_SIZE}
        content = pack(head["data"], head["datatype"]) if raw is None else raw
        return RawTensor(
            name=head["name"],
            datatype=head["datatype"],
            shape=tuple(head["shape"]),
            raw=content,
            parameters=parameters,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise WireError(f"an output lacks what the protocol wants: {error!r}") from error


def join(document: Mapping[str, Any], raws: Sequence[bytes | memoryview]) -> tuple[bytes, int]:
    """A document, whose tensors say their sizes already, and the bytes of these -> the body, and the document's length.

    Raises:
        WireError: the document is not JSON.
    """
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise WireError(f"not a JSON document: {error}") from error
    return b"".join([text, *raws]), len(text)


def split(body: bytes | bytearray | memoryview, length: str | int | None) -> tuple[dict[str, Any], memoryview]:
    """A body -> its document, and the bytes behind it.

    Args:
        body: of a request or an answer.
        length: the value of :data:`HEADER_LENGTH`; None: all of the body is the document.

    Raises:
        WireError: the length is none of this body, or the document is not a JSON object.
    """
    view = memoryview(body)
    end = len(view) if length is None else parse_length(length)
    if end > len(view):
        raise WireError(f"{HEADER_LENGTH}: {end}, but the body has {len(view)} bytes")
    try:
        document = json.loads(bytes(view[:end]))
    except (ValueError, RecursionError) as error:
        where = "the body is" if length is None else f"the first {end} bytes of the body, as {HEADER_LENGTH} says, are"
        raise WireError(f"{where} not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise WireError("expected a JSON object")
    return document, view[end:]


def parse_length(value: str | int) -> int:
    """The value of :data:`HEADER_LENGTH` as a number.

    Raises:
        WireError: it is none.
    """
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise WireError(f"{HEADER_LENGTH}: expected a number of bytes, got {text[:40]!r}")
    return int(text)


def take_raw(heads: Sequence[Any], rest: memoryview) -> list[memoryview | None]:
    """Shares out the bytes behind a document.

    Args:
        heads: its tensors; what is no object has no bytes.
        rest: the bytes.

    Returns:
        For each tensor its bytes; None where it does not have ``binary_data_size``.

    Raises:
        WireError: a size is no number, or they are not the bytes that are there.
    """
    sizes = [_binary_size(head) for head in heads]
    total = sum(size for size in sizes if size is not None)
    if total != len(rest):
        where = f"{len(rest)} follow the document, whose length is the header {HEADER_LENGTH}"
        raise WireError(f"{BINARY_SIZE}: the tensors have {total} bytes together, {where}")
    parts: list[memoryview | None] = []
    place = 0
    for size in sizes:
        parts.append(None if size is None else rest[place : place + size])
        place += size or 0
    return parts


def _binary_size(head: Any) -> int | None:
    parameters = head.get("parameters") if isinstance(head, dict) else None
    if not isinstance(parameters, dict) or BINARY_SIZE not in parameters:
        return None
    size = parameters[BINARY_SIZE]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**53:
        raise WireError(f"{BINARY_SIZE}: expected a number of bytes, got {str(size)[:40]}")
    return size
