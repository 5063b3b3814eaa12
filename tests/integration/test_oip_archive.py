"""The Open Inference Protocol over plain TorchServe: Triton's client, and requests, at /v2/models/NAME/infer."""

import base64
import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from marquee.handlers.core.oip.datatypes import pack_bytes, unpack
from marquee.handlers.core.oip.wire import HEADER_LENGTH, RawTensor, decode_answer, encode_request
from tests.conftest import Served

MOST = 64
"""Images of one request."""


class Evaluated:
    """All test images, with evaluation's answers."""

    def __init__(self, run: Path) -> None:
        with open(run / "predictions.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        self.files = [Path(row["path"]).read_bytes() for row in rows]
        self.pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in self.files])
        self.labels = [row["predicted"] for row in rows]
        self.probabilities = np.array([[float(row[str(label)]) for label in range(10)] for row in rows])

    def parts(self) -> Iterator[slice]:
        """Of as many images as a request may have."""
        return (slice(start, start + MOST) for start in range(0, len(self.files), MOST))


@pytest.fixture(scope="module")
def evaluated(run) -> Evaluated:
    return Evaluated(run)


@pytest.fixture(scope="module")
def triton(served) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(served.url.removeprefix("http://"), network_timeout=120, connection_timeout=60)
    yield client
    client.close()


def files_binary(evaluated: Evaluated, part: slice) -> InferInput:
    files = np.array(evaluated.files[part], object)
    given = InferInput("image", [len(files)], "BYTES")
    return given.set_data_from_numpy(files, binary_data=True)


def files_json(evaluated: Evaluated, part: slice) -> InferInput:
    texts = np.array([base64.b64encode(data) for data in evaluated.files[part]], object)
    given = InferInput("image", [len(texts)], "BYTES")
    given.set_data_from_numpy(texts, binary_data=False)
    given._parameters["content_type"] = "base64"  # it has no other way to say so
    return given


def pixels_of(values: np.ndarray, datatype: str, binary: bool) -> InferInput:
    return InferInput("image", list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


WAYS = {
    "files, binary": files_binary,
    "files, JSON": files_json,
    "UINT8, binary": lambda e, part: pixels_of(e.pixels[part], "UINT8", True),
    "UINT8, JSON": lambda e, part: pixels_of(e.pixels[part][..., None], "UINT8", False),
    "FP32, binary": lambda e, part: pixels_of((e.pixels[part] / 255).astype(np.float32), "FP32", True),
    "FP32, JSON": lambda e, part: pixels_of((e.pixels[part] / 255).astype(np.float32), "FP32", False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("binary", [True, False], ids=["raw answer", "JSON answer"])
def test_all_test_images(served, triton, evaluated, way, binary):
    """Evaluation's answers, whatever the way."""
    labels, probabilities = [], []
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities", "error")]
    for part in evaluated.parts():
        read = triton.infer("digits", [WAYS[way](evaluated, part)], outputs=outputs, headers=served.headers())
        labels += [label.decode() if isinstance(label, bytes) else label for label in read.as_numpy("label")]
        probabilities.append(read.as_numpy("probabilities"))
        assert not any(read.as_numpy("error"))
        assert all(("data" in output) != binary for output in read.get_response()["outputs"])
    assert len(labels) == 355
    assert labels == evaluated.labels
    assert np.allclose(np.concatenate(probabilities), evaluated.probabilities, atol=1e-4)


def test_what_else_the_answer_says(served, triton, evaluated):
    read = triton.infer("digits", [files_binary(evaluated, slice(2))], request_id="7", headers=served.headers())
    document = read.get_response()
    assert (document["model_name"], document["model_version"], document["id"]) == ("digits", "1.0", "7")
    assert document["parameters"]["bundle"].startswith("sha256:")
    assert json.loads(read.as_numpy("answer")[0])["label"] == evaluated.labels[0]
    assert read.as_numpy("abstained").dtype == bool


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_packed_requests(served, triton, evaluated, algorithm):
    read = triton.infer(
        "digits",
        [files_binary(evaluated, slice(5))],
        headers=served.headers(),
        request_compression_algorithm=algorithm,
    )
    assert [label.decode() for label in read.as_numpy("label")] == evaluated.labels[:5]


def test_a_bad_image_among_good_ones(served, triton, evaluated):
    files = np.array([evaluated.files[0], b"text", evaluated.files[1]], object)
    given = InferInput("image", [3, 1], "BYTES").set_data_from_numpy(files[:, None])
    read = triton.infer("digits", [given], headers=served.headers())
    assert [label.decode() for label in read.as_numpy("label")] == [evaluated.labels[0], "", evaluated.labels[1]]
    assert np.isnan(read.as_numpy("probability")).tolist() == [False, True, False]
    assert [bool(error) for error in read.as_numpy("error")] == [False, True, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: InferInput("image", [1], "BYTES").set_data_from_numpy(np.array([b"text"], object)), "not an image"),
        (lambda: pixels_of(np.zeros((1, 2, 2, 4), np.uint8), "UINT8", True), "with 1 or 3 channels"),
        (lambda: pixels_of(np.zeros((1, 2, 2), bool), "BOOL", False), "got BOOL"),
        (
            lambda: InferInput("input-0", [1], "INT32").set_data_from_numpy(np.ones(1, np.int32)),
            'unknown tensor "input-0"',
        ),
    ],
    ids=range(4),
)
def test_refusals_are_the_clients_exceptions(served, triton, given, message):
    with pytest.raises(InferenceServerException) as error:
        triton.infer("digits", [given()], headers=served.headers())
    assert message in str(error.value)
    assert error.value.status() == "400"


def infer(served: Served, data: bytes, path: str = "v2/models/digits/infer", **headers: str) -> requests.Response:
    given = {**served.headers(), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.post(f"{served.url}/{path}", data=data, headers=given, timeout=60)


def as_document(evaluated: Evaluated, count: int, **members: Any) -> bytes:
    texts = [base64.b64encode(data).decode() for data in evaluated.files[:count]]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [count], "data": texts}
    return json.dumps({"inputs": [{**tensor, "parameters": {"content_type": "base64"}}], **members}).encode()


@pytest.mark.parametrize("path", ["v2/models/digits/infer", "predictions/digits", "predictions/digits/1.0"])
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain", None])
def test_paths_and_content_types(served, evaluated, path, content_type):
    headers = {} if content_type is None else {"Content_Type": content_type}
    answer = infer(served, as_document(evaluated, 3), path, **headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    document = answer.json()
    assert "id" not in document
    assert {output["name"]: output["data"] for output in document["outputs"]}["label"] == evaluated.labels[:3]


def test_binary_data_by_hand(served, evaluated):
    """The bytes that go to and fro, without a client's library; the header's name in lower case."""
    content = pack_bytes(evaluated.files[:1])
    body, length = encode_request([RawTensor(name="image", datatype="BYTES", shape=(), raw=content)])
    for path in ("v2/models/digits/infer", "predictions/digits"):
        answer = infer(served, body, path, **{"Content_Type": "application/octet-stream", HEADER_LENGTH: str(length)})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/octet-stream")
        _, outputs = decode_answer(answer.content, answer.headers[HEADER_LENGTH])
        values = {t.name: unpack(t.raw, t.datatype, math.prod(t.shape)) for t in outputs}
        assert values["label"].tolist() == [evaluated.labels[0].encode()]
        assert values["probabilities"] == pytest.approx(evaluated.probabilities[0], abs=1e-4)


def test_over_torchserves_grpc(served, evaluated):
    """A call has no headers there, so the outputs are JSON whatever is asked for."""
    answer = served.client.predict_grpc("digits", as_document(evaluated, 2, parameters={"binary_data_output": True}))
    outputs = {output["name"]: output for output in answer.body["outputs"]}
    assert outputs["label"]["data"] == evaluated.labels[:2]


def test_the_metadata_is_described(served):
    metadata = served.client.describe("digits", customized=True)[0]["customizedMetadata"]
    metadata = (json.loads(metadata) if isinstance(metadata, str) else metadata)["tensors"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert {"name": "probabilities", "datatype": "FP64", "shape": [-1, 10]} in metadata["outputs"]


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b'{"inputs": [{"name": "image", "shape": [1], "data": ["a"]}]}', {}, "datatype is missing"),
        (b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["a"]}]}', {}, "data has 1"),
        (b"{}", {HEADER_LENGTH: "7"}, "7, but the body has 2 bytes"),
        (b"{}", {HEADER_LENGTH: "2"}, "inputs: expected a list"),
        (b"\xff\xff", {HEADER_LENGTH: "2"}, "not valid JSON"),
        (b"[" * 10_000, {HEADER_LENGTH: "10000"}, "not valid JSON"),
        (b'{"inputs": [], "a": "\xff"}', {HEADER_LENGTH: "24", "Content_Type": "application/json"}, "not valid JSON"),
    ],
)
def test_bad_requests_leave_the_worker_alone(served, body, headers, message):
    workers = served.client.describe("digits")[0]["workers"]
    answer = infer(served, body, **headers)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert message in answer.json()["error"]
    after = served.client.describe("digits")[0]["workers"]
    assert [worker["pid"] for worker in after] == [worker["pid"] for worker in workers]
