"""Tensor: one tensor of a request, checked; and how kinds of input ask for its items."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..quoting import quote, quote_names
from .datatypes import BYTES, DATATYPES, WireError, count_elements, unpack
from .elements import Base64, read_data
from .metadata import VARIABLE

CONTENT_TYPE = "content_type"
"""Parameter that says what is in ``BYTES``, as in MLServer: ``base64``; other values change nothing."""
MOST_TEXTS = 3_000_000
"""Elements of a ``BYTES`` tensor: as many as there are cells in the longest CSV that a table takes by default."""
_MOST_AXES = 8
_LONGEST = 2**40
"""No request holds an axis of so many elements; and products of such lengths can be written in a message."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a request; it has at least one element."""

    name: str
    datatype: str
    """Of the protocol."""
    values: np.ndarray
    """In the tensor's shape. ``BYTES``: objects, which are bytes where they came as binary data, text where they came
    as JSON, and :class:`.elements.Base64` where they are base64 of what is meant."""
    parameters: Mapping[str, Any]
    """Its own."""
    shape_is_open: bool = False
    """Whether the client said ``[-1]`` in place of the shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.values.shape

    @property
    def is_bytes(self) -> bool:
        """Whether its elements are bytes or text."""
        return self.datatype == BYTES

    def column(self) -> np.ndarray:
        """One value an item, from a tensor of shape ``[]``, ``[N]`` or ``[N, 1]``.

        Raises:
            InputError: it has another shape.
        """
        if self.values.ndim > 2 or (self.values.ndim == 2 and self.shape[1] != 1):
            wanted = "expected the shape [N] or [N, 1], with one element an item"
            raise InputError("bad_request", f"tensor {quote(self.name)}: {wanted}, got {list(self.shape)}")
        return self.values.ravel()


def read_tensor(head: Any, raw: memoryview | None, inherited: Mapping[str, Any], most: int) -> Tensor:
    """One member of ``inputs``.

    Args:
        head: of the document.
        raw: its binary data; None where it has none.
        inherited: parameters of the request that its tensors have, too.
        most: items that a request may have: more texts are refused before they are told apart.

    Raises:
        InputError: it is no tensor; the message names it.
    """
    if not isinstance(head, dict):
        wanted = "expected objects with name, shape, datatype and data"
        raise InputError("bad_request", f"inputs: {wanted}, got {quote(head)}")
    name = head.get("name")
    if not isinstance(name, str) or not name:
        raise InputError("bad_request", f"inputs: name: expected a text, got {quote(name)}")
    try:
        return _read(name, head, raw, inherited, most)
    except WireError as error:
        raise InputError("bad_request", f"tensor {quote(name)}: {error}") from error


def _read(
    name: str, head: Mapping[str, Any], raw: memoryview | None, inherited: Mapping[str, Any], most: int
) -> Tensor:
    datatype = _datatype(head)
    parameters = {**inherited, **read_parameters(head)}
    if ("data" in head) == (raw is not None):
        raise WireError(_not_one_source(head, parameters))
    shape_is_open = head.get("shape") == [VARIABLE]
    shape = (_count(head, raw, datatype),) if shape_is_open else _shape(head)
    if datatype == BYTES and shape:
        check_items(shape[0], most)
        if math.prod(shape) > MOST_TEXTS:
            raise InputError("too_large", f"tensor {quote(name)}: more than {MOST_TEXTS} elements")
    values = read_data(head["data"], datatype, shape) if raw is None else unpack(raw, datatype, math.prod(shape))
    if datatype == BYTES and parameters.get(CONTENT_TYPE) == "base64":
        values = _as_base64(values)
    return Tensor(
        name=name,
        datatype=datatype,
        values=values.reshape(shape),
        parameters=parameters,
        shape_is_open=shape_is_open,
    )


def read_parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    """The member ``parameters``.

    Raises:
        WireError: it is no object.
    """
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise WireError(f"parameters: expected an object, got {quote(parameters)}")
    return parameters


def _datatype(head: Mapping[str, Any]) -> str:
    if "datatype" not in head:
        raise WireError("datatype is missing")
    datatype = head["datatype"]
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise WireError(f"datatype: expected one of {', '.join(DATATYPES)}, got {quote(datatype)}")
    return datatype


def _not_one_source(head: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Why a tensor's values cannot be found."""
    if "data" in head:
        return "both data and binary_data_size are there; send one of them"
    if "shared_memory_region" in parameters:
        return "shared memory is not supported; send the data"
    return "data is missing"


def _shape(head: Mapping[str, Any]) -> tuple[int, ...]:
    if "shape" not in head:
        raise WireError("shape is missing")
    value = head["shape"]
    if not isinstance(value, list) or len(value) > _MOST_AXES or not all(type(length) is int for length in value):
        raise WireError(f"shape: expected a list of at most {_MOST_AXES} integers, got {_shown(value)}")
    if not all(1 <= length <= _LONGEST for length in value):
        raise WireError(f"shape: expected lengths from 1 to {_LONGEST}, got {_shown(value)}")
    return tuple(value)


def _shown(shape: Any) -> str:
    """A client's shape for a message."""
    if isinstance(shape, list) and len(shape) <= _MOST_AXES:
        return f"[{', '.join(map(quote, shape))}]"
    return quote(shape)


def _count(head: Mapping[str, Any], raw: memoryview | None, datatype: str) -> int:
    """How many elements there are, where the shape does not say it."""
    if raw is not None:
        count = count_elements(raw, datatype)
    else:
        count = len(head["data"]) if isinstance(head["data"], list) else 1
    if not count:
        raise WireError("data: expected at least one element")
    return count


def _as_base64(values: np.ndarray) -> np.ndarray:
    encoded = np.empty(values.shape, object)
    encoded[:] = [Base64(v.decode("ascii", "replace") if isinstance(v, bytes) else v) for v in values]
    return encoded


def the_only(tensors: Sequence[Tensor], names: Collection[str]) -> Tensor:
    """The tensor of a model that takes one.

    Args:
        tensors: of a request.
        names: under which it may come.

    Raises:
        InputError: another one is there.
    """
    for tensor in tensors:
        if tensor.name not in names:
            wanted = " or ".join(map(quote, names))
            raise InputError("bad_request", f"unknown tensor {quote(tensor.name)}; the model takes {wanted}")
    if len(tensors) > 1:
        given = quote_names([tensor.name for tensor in tensors], len(tensors))
        raise InputError("bad_request", f"expected one tensor, got {given}")
    return tensors[0]


def check_items(count: int, most: int) -> None:
    """Raises InputError, ``too_many_instances``, for more items than a request may have."""
    if count > most:
        raise InputError("too_many_instances", f"{count} items; at most {most} in one request")
