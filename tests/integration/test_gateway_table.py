"""The table of proofs: behind a real TorchServe, every protocol gives evaluation's answer to every test image.

And nothing that a client sends ends a worker: the process that answers in the end is the one that answered first.
"""

import base64
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from marquee.gateway.access.keys import KEYS_FILE, KeyStore
from marquee.serving.client import Client
from marquee.serving.grpc_stubs import load_stubs
from tests.conftest import find_free_port
from tests.properties import many

SECONDS = 120
BATCH = 60
"""Images of one request; a bundle takes up to 64."""
TOLERANCE = 1e-4

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Running:
    """A gateway in front of TorchServe."""

    http: str
    grpc: str
    key: str
    client: Client

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.key}")]

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        return requests.post(self.http + path, body, headers={**self.headers, **headers}, timeout=SECONDS)

    def pids(self) -> list[int]:
        """Of the workers, as TorchServe's management API tells through the gateway."""
        (described,) = self.client.describe("digits")
        return [worker["pid"] for worker in described["workers"]]


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, Any]]:
    """All test images with evaluation's answers."""
    with open(run / "predictions.csv", newline="") as stream:
        return [{**row, "data": Path(row["path"]).read_bytes()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def running(tmp_path_factory, store, script) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("table")
    options = ["--store", store, "--state", state, "--port", find_free_port(), "--gateway", 0, "--graphql", "--json"]
    started = json.loads(script("serve", "start", "digits", *options).stdout)
    try:
        doors = started["gateway"]
        key = KeyStore(state / KEYS_FILE).add("table", ("predict", "explain", "manage"))
        yield Running(doors["http"], doors["grpc"], key, Client.gateway(doors["http"], key, grpc=doors["grpc"]))
    finally:
        script("serve", "stop", "--state", state)


@pytest.fixture(scope="module", autouse=True)
def same_workers(running) -> Iterator[None]:
    before = running.pids()
    assert before
    yield
    assert running.pids() == before
    assert requests.get(f"{running.http}/v2/health/ready", timeout=SECONDS).status_code == 200


# The ways to ask: contents of files -> (label, probability) for each

Answers = list[tuple[str, float]]


def texts(contents: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(content).decode() for content in contents]


def one_by_one(running: Running, contents: Sequence[bytes], path: str, **headers: str) -> Answers:
    """A file a request, several requests at once, so that TorchServe makes batches."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda content: running.post(path, content, **headers).json(), contents)
        return [(answer["label"], answer["probability"]) for answer in answers]


def torchserve_rest(running: Running, contents: Sequence[bytes]) -> Answers:
    return one_by_one(running, contents, "/predictions/digits")


def invocations(running: Running, contents: Sequence[bytes]) -> Answers:
    return one_by_one(running, contents, "/invocations", **{"Content-Type": "image/png"})


def azure(running: Running, contents: Sequence[bytes]) -> Answers:
    return one_by_one(running, contents, "/score", **{"Content-Type": "application/octet-stream"})


def torchserve_grpc(running: Running, contents: Sequence[bytes]) -> Answers:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda content: running.client.predict_grpc("digits", content).body, contents)
        return [(answer["label"], answer["probability"]) for answer in answers]


def instances(running: Running, contents: Sequence[bytes], path: str) -> Answers:
    body = json.dumps({"instances": [{"b64": text} for text in texts(contents)]}).encode()
    answer = running.post(path, body, **{"Content-Type": "application/json"}).json()
    return [(one["label"], one["probability"]) for one in answer["predictions"]]


def v1(running: Running, contents: Sequence[bytes]) -> Answers:
    return instances(running, contents, "/v1/models/digits:predict")


def vertex(running: Running, contents: Sequence[bytes]) -> Answers:
    return instances(running, contents, "/vertex/predict")


def v2_json(running: Running, contents: Sequence[bytes]) -> Answers:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(contents)], "data": texts(contents)}
    body = json.dumps({"id": "7", "inputs": [{**tensor, "parameters": {"content_type": "base64"}}]}).encode()
    answer = running.post("/v2/models/digits/infer", body, **{"Content-Type": "application/json"}).json()
    assert answer["id"] == "7"
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["error"] == [""] * len(contents)
    return list(zip(outputs["label"], outputs["probability"], strict=True))


def as_elements(contents: Sequence[bytes]) -> np.ndarray:
    elements = np.empty(len(contents), object)
    elements[:] = contents
    return elements


def of_triton(result: Any) -> Answers:
    """Of ``InferResult``, over HTTP or gRPC."""
    labels = [label.decode() for label in result.as_numpy("label")]
    return list(zip(labels, result.as_numpy("probability").tolist(), strict=True))


def v2_binary(running: Running, contents: Sequence[bytes]) -> Answers:
    with tritonclient.http.InferenceServerClient(running.http.removeprefix("http://")) as client:
        tensor = tritonclient.http.InferInput("image", [len(contents)], "BYTES")
        tensor.set_data_from_numpy(as_elements(contents), binary_data=True)
        return of_triton(client.infer("digits", [tensor], headers=running.headers))


def v2_grpc_raw(running: Running, contents: Sequence[bytes]) -> Answers:
    with tritonclient.grpc.InferenceServerClient(running.grpc) as client:
        tensor = tritonclient.grpc.InferInput("image", [len(contents)], "BYTES")
        tensor.set_data_from_numpy(as_elements(contents))
        return of_triton(client.infer("digits", [tensor], headers={"authorization": f"Bearer {running.key}"}))


def v2_grpc_typed(running: Running, contents: Sequence[bytes]) -> Answers:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(contents)], "contents": {"bytes_contents": contents}}
    with grpc.insecure_channel(running.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="digits", inputs=[tensor])
        answer = stub.ModelInfer(request, timeout=SECONDS, metadata=running.metadata)
    return of_triton(tritonclient.grpc.InferResult(answer))


def graphql(running: Running, contents: Sequence[bytes]) -> Answers:
    query = """query($items: [Item!]!) {
      predict(model: "digits", items: $items) { answers { ... on Classification { label probability } } } }"""
    variables = {"items": [{"image": text} for text in texts(contents)]}
    body = json.dumps({"query": query, "variables": variables}).encode()
    answer = running.post("/graphql", body, **{"Content-Type": "application/json"}).json()
    assert "errors" not in answer
    return [(one["label"], one["probability"]) for one in answer["data"]["predict"]["answers"]]


Way = Callable[[Running, Sequence[bytes]], Answers]
WAYS: dict[str, Way] = {
    "V1": v1,
    "V2 JSON": v2_json,
    "V2 binary": v2_binary,
    "V2 gRPC raw": v2_grpc_raw,
    "V2 gRPC typed": v2_grpc_typed,
    "/invocations": invocations,
    "Azure ML": azure,
    "Vertex AI": vertex,
    "GraphQL": graphql,
    "TorchServe REST": torchserve_rest,
    "TorchServe gRPC": torchserve_grpc,
}


@pytest.mark.parametrize("way", WAYS)
def test_all_test_images_get_evaluations_answers(way, running, rows):
    answers: Answers = []
    for start in range(0, len(rows), BATCH):
        answers += WAYS[way](running, [row["data"] for row in rows[start : start + BATCH]])
    assert len(answers) == len(rows) == 355
    for (label, probability), row in zip(answers, rows, strict=True):
        assert label == row["predicted"]
        assert probability == pytest.approx(float(row[row["predicted"]]), abs=TOLERANCE)


# What nobody means, but somebody sends

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
NAMES = st.sampled_from(["image", "label", "", "INPUT__0", "a/b", "🙂"])
DATATYPES = st.sampled_from(["BYTES", "UINT8", "FP32", "FP64", "INT64", "BOOL", "FP16", "bytes", "", "FP128"])
SHAPES = st.lists(st.integers(-2, 9), max_size=5)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | VALUES,
        "datatype": DATATYPES | VALUES,
        "shape": SHAPES | VALUES,
        "data": st.lists(SCALARS, max_size=9) | VALUES,
        "parameters": st.dictionaries(st.sampled_from(["content_type", "binary_data_size"]), SCALARS) | VALUES,
    },
)
DOCUMENTS = st.one_of(
    VALUES,
    st.fixed_dictionaries({"inputs": st.lists(TENSORS, max_size=3)}, optional={"id": SCALARS, "outputs": VALUES}),
    st.fixed_dictionaries({"instances": st.lists(VALUES | st.fixed_dictionaries({"b64": SCALARS}), max_size=4)}),
    st.fixed_dictionaries({"query": st.text(max_size=40) | SCALARS}, optional={"variables": VALUES}),
)
BODIES = st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode())
PATHS = st.sampled_from(
    [
        *("/predictions/digits", "/invocations", "/score", "/vertex/predict", "/graphql"),
        *("/v1/models/digits:predict", "/v2/models/digits/infer", "/v2/models/digits/versions/1.0/infer"),
    ]
)
TYPES = st.sampled_from(
    ["application/json", "application/octet-stream", "image/png", "text/csv", "text/plain", "x", ""]
)
HEADERS = st.fixed_dictionaries(
    {"Content-Type": TYPES},
    optional={
        "Inference-Header-Content-Length": st.integers(-2, 300).map(str) | st.sampled_from(["x", "1e3", "7,8"]),
        "Content-Encoding": st.sampled_from(["gzip", "identity", "br"]),
    },
)


@many(50)
@given(path=PATHS, body=BODIES, headers=HEADERS)
def test_bodies_over_rest(path, body, headers, running):
    """Each gets JSON, and says what is wrong with it: never 500, and no broken connection."""
    response = running.post(path, body, **headers)
    assert response.status_code in (200, 400, 404, 413), (response.status_code, response.text)
    assert isinstance(response.json(), dict)
    if path.startswith("/v2") and response.status_code != 200:
        assert isinstance(response.json()["error"], str)


RAW = st.lists(st.binary(max_size=60), max_size=3)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bytes_contents": st.lists(st.binary(max_size=30), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        "uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=4),
        "bool_contents": st.lists(st.booleans(), max_size=4),
    },
)
RPC_TENSORS = st.fixed_dictionaries(
    {"name": NAMES, "datatype": DATATYPES, "shape": SHAPES}, optional={"contents": CONTENTS}
)


@many(50)
@given(
    tensors=st.lists(RPC_TENSORS, max_size=3),
    raw=RAW,
    version=st.sampled_from(["", "1.0", "9"]),
    outputs=st.lists(NAMES.map(lambda name: {"name": name}), max_size=2),
)
def test_messages_over_grpc(tensors, raw, version, outputs, running):
    message = pb.ModelInferRequest(
        model_name="digits", model_version=version, inputs=tensors, raw_input_contents=raw, outputs=outputs
    )
    with grpc.insecure_channel(running.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ModelInfer(message, timeout=SECONDS, metadata=running.metadata)
        except grpc.RpcError as error:
            allowed = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert error.code() in allowed, error
            assert error.details()


@many(50)
@given(fields=st.dictionaries(st.sampled_from(["data", "body", "image", "explain", ""]), BODIES, max_size=3))
def test_fields_over_torchserves_grpc(fields, running):
    """It gives the handler's own error with the status OK, or a status of its own."""
    stubs = load_stubs()
    with grpc.insecure_channel(running.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        service = stubs.inference_grpc.InferenceAPIsServiceStub(channel)
        message = stubs.inference.PredictionsRequest(model_name="digits", input=fields)
        try:
            answer = service.Predictions(message, timeout=SECONDS, metadata=running.metadata)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL), error
        else:
            assert isinstance(json.loads(answer.prediction), dict)
