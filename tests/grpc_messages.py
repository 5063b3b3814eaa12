"""Messages of both protocols over gRPC as a hostile client may make them, and what every call must end with."""

import base64
import gzip
import json
import math
from typing import Any

import grpc
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from marquee.gateway import errors
from marquee.gateway.errors import Kind
from marquee.handlers.core.oip.datatypes import pack, pack_bytes
from marquee.serving.grpc_stubs import load_stubs

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
ALLOWED = {"OK", *(kind.grpc for kind in vars(errors).values() if isinstance(kind, Kind))} - {"INTERNAL"}
"""Statuses that a client may cause."""
_TYPES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "UINT8": ("uint_contents", st.integers(0, 255)),
    "INT32": ("int_contents", st.integers(-5, 300)),
    "INT64": ("int64_contents", st.integers(-5, 2**62)),
    "UINT64": ("uint64_contents", st.integers(0, 2**63)),
    "FP32": ("fp32_contents", st.floats(width=32) | st.floats(0, 1, width=32)),
    "FP64": ("fp64_contents", st.floats() | st.floats(0, 1)),
    "BOOL": ("bool_contents", st.booleans()),
}
"""Datatype -> the field of its contents, and what may be in it."""
_SHAPES = st.sampled_from(
    [(), (1,), (2,), (0,), (-1,), (3, 3), (1, 2, 2), (2, 2, 2, 3), (1, 1, 1, 1, 1), (2**40,), (2**62, 4)]
)
_SHORT = st.text(max_size=6)
_PARAMETER = st.one_of(
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(pb.InferParameter, string_param=_SHORT | st.just("base64")),
    st.just(pb.InferParameter()),
)
_PARAMETERS = st.dictionaries(
    st.sampled_from(["content_type", "binary_data_size", "binary_data_output", "range", "x"]), _PARAMETER, max_size=2
)


@st.composite
def infer_requests(draw: st.DrawFn, image: bytes) -> pb.ModelInferRequest:
    """Each part is mostly as it should be, and sometimes anything."""

    def mostly(usual: Any, other: st.SearchStrategy[Any]) -> Any:
        return usual if draw(st.integers(0, 9)) else draw(other)

    is_raw, inputs, raws = draw(st.booleans()), [], []
    for _ in range(mostly(1, st.integers(0, 2))):
        tensor, raw = draw(_tensors(image))
        tensor.name = mostly("image", _SHORT)
        if is_raw:
            raws.append(raw)
        if mostly(is_raw, st.booleans()):
            tensor.ClearField("contents")
        inputs.append(tensor)
    outputs = mostly([], st.lists(st.sampled_from(["label", "answer", "absent", ""]), max_size=2))
    return pb.ModelInferRequest(
        model_name=mostly("digits", _SHORT | st.just("absent")),
        model_version=mostly("", _SHORT | st.just("1.0")),
        id=draw(_SHORT),
        parameters=mostly({}, _PARAMETERS),
        inputs=inputs,
        outputs=[{"name": name, "parameters": mostly({}, _PARAMETERS)} for name in outputs],
        raw_input_contents=mostly(raws, st.lists(st.binary(max_size=16), max_size=2)),
    )


@st.composite
def _tensors(draw: st.DrawFn, image: bytes) -> tuple[pb.ModelInferRequest.InferInputTensor, bytes]:
    """A tensor with contents, and the same as raw bytes; some shapes are not those of the values."""
    shape = draw(_SHAPES)
    count = math.prod(shape) if 0 <= math.prod(shape) <= 24 else draw(st.integers(0, 3))
    datatype = draw(st.sampled_from(["BYTES", "BYTES", "BYTES", *_TYPES, "FP16", "BF16", "JPEG", ""]))
    if datatype in _TYPES:
        field, element = _TYPES[datatype]
        values = draw(st.lists(element, min_size=count, max_size=count))
        raw = pack(values, datatype)
    else:
        element = st.sampled_from([image, base64.b64encode(image)]) | st.binary(max_size=20)
        field, values = "bytes_contents", draw(st.lists(element, min_size=min(count, 3), max_size=min(count, 3)))
        raw = pack_bytes(values) if datatype == "BYTES" else bytes(2 * count)
    return pb.ModelInferRequest.InferInputTensor(
        datatype=datatype, shape=shape, parameters=draw(st.just({}) | _PARAMETERS), contents={field: values}
    ), raw


@st.composite
def predictions_requests(draw: st.DrawFn, image: bytes) -> Any:
    """As :func:`infer_requests`, for TorchServe's own method."""

    def mostly(usual: Any, other: st.SearchStrategy[Any]) -> Any:
        return usual if draw(st.integers(0, 9)) else draw(other)

    bodies = [image, b"", b"text", base64.b64encode(image), gzip.compress(image, mtime=0)]
    documents = [{"instances": [1]}, {"b64": "x"}, {"image_data": [[0, 9]]}, {"inputs": [{"name": "image"}]}, [], None]
    body = st.sampled_from([*bodies, *(json.dumps(document).encode() for document in documents)])
    fields = {mostly("data", st.sampled_from(["body", "picture"]) | _SHORT): draw(body | st.binary(max_size=40))}
    settings_of = st.sampled_from(["explain", "method", "label", "window", "body"]) | _SHORT
    values = st.sampled_from([b"true", b"occlusion", b"3", image]) | st.binary(max_size=9)
    fields |= mostly({}, st.dictionaries(settings_of, values, max_size=3))
    return load_stubs().inference.PredictionsRequest(
        model_name=mostly("digits", _SHORT | st.just("absent")),
        model_version=mostly("", _SHORT | st.just("1.0")),
        input=fields,
        sequence_id=mostly(None, _SHORT),
    )


def check_any(channel: grpc.Channel, path: str, content: bytes) -> None:
    """Sends a message to a method of one answer: the call ends with a status of the table, and says why."""
    try:
        channel.unary_unary(path)(content, timeout=60)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details()
        trailing = dict(error.trailing_metadata() or ())
        if (code, trailing.get("error-code")) == ("INTERNAL", "not_found"):  # as TorchServe says it
            assert details.startswith(("Model not found: ", "Model version: "))
            return
        assert code in ALLOWED, details
        assert details
