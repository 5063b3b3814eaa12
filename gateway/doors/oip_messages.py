"""Messages of the Open Inference Protocol over gRPC <-> its bodies over REST, which the handler reads and writes.

Tensors go to the handler as raw bytes. Answers carry raw bytes, whatever the request had, as Triton's do: tritonclient
reads no numbers from anywhere else, and kserve's client reads either. A request with the parameter
``binary_data_output: false`` gets typed contents.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from marquee.gateway.errors import BAD_REQUEST, NOT_SUPPORTED, GatewayError
from marquee.handlers.core.oip.datatypes import WireError, pack, unpack
from marquee.handlers.core.oip.wire import (
    BINARY,
    BINARY_OUTPUT,
    BINARY_SIZE,
    HEADER_LENGTH,
    RawTensor,
    decode_answer,
    encode_request,
)

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> the field of ``InferTensorContents`` that has its values; 16-bit floats have none."""
OPEN_SHAPE = [-1]
"""As many elements as there are, in KServe's samples."""
_ON_THE_WIRE = frozenset((BINARY, BINARY_OUTPUT, BINARY_SIZE))
"""Parameters about how values are sent, which over gRPC the messages themselves say."""
_SHARED_MEMORY = "shared_memory_region"


def encode(request: pb.ModelInferRequest) -> tuple[bytes, dict[str, str]]:
    """A request as body and headers.

    Raises:
        GatewayError: ``BAD_REQUEST``: raw and typed contents are mixed, their number or type does not fit; what a model
            takes is the handler's to say.
    """
    try:
        body, length = encode_request(
            _inputs(request),
            id=request.id,
            parameters=_values(request.parameters),
            outputs=[{"name": output.name, "parameters": _values(output.parameters)} for output in request.outputs],
        )
    except WireError as error:
        raise GatewayError(BAD_REQUEST, str(error)) from error
    return body, {HEADER_LENGTH: str(length)}


def decode(request: pb.ModelInferRequest, body: bytes, headers: Mapping[str, str]) -> pb.ModelInferResponse:
    """The handler's answer, where it is no error, as a message.

    Args:
        request: what it answers.
        body: of the answer.
        headers: of the answer, in lower case.

    Raises:
        GatewayError: ``NOT_SUPPORTED``: it is no answer of the protocol.
    """
    try:
        document, tensors = decode_answer(body, headers.get(HEADER_LENGTH))
        response = pb.ModelInferResponse(
            model_name=document.get("model_name", request.model_name),
            model_version=document.get("model_version", request.model_version),
            id=request.id,
            outputs=[_output(tensor) for tensor in tensors],
        )
        _add(response.parameters, document.get("parameters", {}))
        if is_typed(request):
            for tensor, output in zip(tensors, response.outputs, strict=True):
                values = unpack(tensor.raw, tensor.datatype, math.prod(tensor.shape)).tolist()
                getattr(output.contents, CONTENTS[tensor.datatype]).extend(values)
        else:
            response.raw_output_contents.extend(bytes(tensor.raw) for tensor in tensors)
    except (WireError, TypeError, KeyError, AttributeError) as error:
        message = f"model {request.model_name!r} does not speak the Open Inference Protocol; package it again"
        raise GatewayError(NOT_SUPPORTED, message) from error
    return response


def is_typed(request: pb.ModelInferRequest) -> bool:
    """Whether the answer is to have typed contents."""
    wish = request.parameters.get(BINARY_OUTPUT)
    return wish is not None and wish.WhichOneof("parameter_choice") == "bool_param" and not wish.bool_param


def _inputs(request: pb.ModelInferRequest) -> list[RawTensor]:
    raws: Sequence[bytes] = request.raw_input_contents
    for tensor in request.inputs:
        if _SHARED_MEMORY in tensor.parameters:
            raise WireError(f"input {tensor.name!r}: shared memory is not supported; send the contents")
        if raws and tensor.HasField("contents") and tensor.contents.ByteSize():
            raise WireError(f"input {tensor.name!r} has contents beside raw_input_contents; send one of them")
    if raws and len(raws) != len(request.inputs):
        raise WireError(f"raw_input_contents: expected one for each of {len(request.inputs)} inputs, got {len(raws)}")
    return [
        RawTensor(
            name=tensor.name,
            datatype=tensor.datatype,
            shape=tuple(tensor.shape),
            raw=raws[number] if raws else _packed(tensor),
            parameters=_values(tensor.parameters),
        )
        for number, tensor in enumerate(request.inputs)
    ]


def _packed(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    """Typed contents as raw bytes."""
    where = f"input {tensor.name!r}"
    wanted = CONTENTS.get(tensor.datatype)
    if wanted is None:
        raise WireError(f"{where}: {tensor.datatype!r} has no typed contents; send raw_input_contents")
    for field, values in tensor.contents.ListFields():
        if field.name != wanted and len(values):
            raise WireError(f"{where}: expected {wanted} for {tensor.datatype}, got {field.name}")
    values = getattr(tensor.contents, wanted)
    expected = math.prod(tensor.shape)
    if len(values) != expected and list(tensor.shape) != OPEN_SHAPE:
        raise WireError(f"{where}: the shape {list(tensor.shape)} has {expected} elements, {wanted} has {len(values)}")
    try:
        return pack(values, tensor.datatype)
    except WireError as error:
        raise WireError(f"{where}: {error}") from error


def _output(tensor: RawTensor) -> pb.ModelInferResponse.InferOutputTensor:
    output = pb.ModelInferResponse.InferOutputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    _add(output.parameters, tensor.parameters)
    return output


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Parameters as JSON has them; one without a value is left out."""
    chosen = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    return {
        name: getattr(parameters[name], choice)
        for name, choice in chosen.items()
        if choice is not None and name not in _ON_THE_WIRE
    }


def _add(parameters: Any, values: Mapping[str, Any]) -> None:
    """Puts JSON values into a message's parameters; what is no text, number or truth value goes in as JSON."""
    for name, value in values.items():
        if isinstance(value, bool):
            parameters[name].bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            parameters[name].int64_param = value
        elif isinstance(value, float):
            parameters[name].double_param = value
        else:
            parameters[name].string_param = value if isinstance(value, str) else json.dumps(value)
