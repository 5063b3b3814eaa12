"""TorchServe's gRPC services at the gateway: clients of TorchServe, unchanged."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty

from marquee import Client
from marquee.gateway.doors.torchserve_grpc import encode_fields
from marquee.gateway.form_fields import fields_of
from marquee.serving.grpc_stubs import load_stubs
from tests.grpc_gateway import GrpcGateway, status_of

METADATA = (("protocol", "gRPC"), ("session_id", "test"))


@pytest.fixture(scope="module")
def server(store):
    with GrpcGateway({"digits": store / "digits.mar"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client.gateway(f"http://127.0.0.1:{server.port - 1}", grpc=server.address)


@pytest.fixture(scope="module")
def channel(server):
    with server.channel() as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(channel):
    return load_stubs().inference_grpc.InferenceAPIsServiceStub(channel)


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, str]]:
    with (run / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def image(rows) -> bytes:
    return Path(rows[0]["path"]).read_bytes()


def request(model: str = "digits", **fields: Any) -> Any:
    return load_stubs().inference.PredictionsRequest(model_name=model, **fields)


def body(response: Any) -> Any:
    return json.loads(response.prediction)


class TestClient:
    """``marquee.Client``, which knows nothing of a gateway here."""

    @pytest.mark.slow
    def test_every_image(self, client, rows):
        assert len(rows) == 355
        for row in rows:
            answer = client.predict_grpc("digits", row["path"])
            assert answer.error is None
            assert answer.body["label"] == row["predicted"]
            assert answer.body["probability"] == pytest.approx(float(row[row["predicted"]]), abs=1e-6)

    def test_a_list_with_a_bad_item(self, client, image):
        pixels = {"image_data": np.zeros((8, 8), int).tolist(), "range": 255}
        document = {"instances": [pixels, {"b64": "no"}]}
        good, bad = client.predict_grpc("digits", json.dumps(document).encode()).body["predictions"]
        assert "label" in good
        assert bad["error"]["code"]

    def test_a_version(self, client, image):
        assert client.predict_grpc("digits", image, version="1.0").body["model"]["version"] == "1.0"

    def test_what_is_not_there(self, client, image):
        for arguments, words in ((("absent", image), "Model not found: absent"), (("digits", image, "9"), "9")):
            answer = client.predict_grpc(*arguments)
            assert answer.status == 404
            assert words in answer.error

    def test_an_error_of_the_handler(self, client):
        assert client.predict_grpc("digits", b"text").error.startswith("not_an_image: ")
        assert client.predict_grpc("digits", b"").error.startswith("empty: ")

    def test_an_explanation(self, client, image):
        answer = client.explain("digits", image, method="occlusion", grpc=True)
        assert answer.error is None
        assert answer.body["explanation"]["method"] == "occlusion"


class TestPredictions:
    def test_metadata_are_not_needed(self, stub, image):
        for metadata in ((), METADATA):
            assert "label" in body(stub.Predictions(request(input={"data": image}), metadata=metadata))

    @pytest.mark.parametrize("name", ["data", "body", "picture", 'a "name"; with=marks', "ein Bild ä"])
    def test_the_only_input_is_the_body(self, stub, image, name):
        assert "label" in body(stub.Predictions(request(input={name: image})))

    def test_no_input(self, stub):
        assert body(stub.Predictions(request()))["error"]["code"] == "empty"

    def test_two_inputs(self, stub, image):
        answer = body(stub.Predictions(request(input={"data": image, "body": image})))
        assert answer["error"]["code"] == "bad_request"

    def test_what_torchserve_says_of_a_model_that_is_not_there(self, stub, image):
        code, details = status_of(lambda: stub.Predictions(request("absent", input={"data": image})))
        assert (code, details.partition("\n")[0]) == ("INTERNAL", "Model not found: absent")
        code, details = status_of(lambda: stub.Predictions(request(model_version="9", input={"data": image})))
        assert code == "INTERNAL"
        assert details.startswith("Model version: 9 does not exist for model: digits\n")
        assert status_of(lambda: stub.Predictions(request("")))[0] == "INVALID_ARGUMENT"

    def test_streams(self, stub, image):
        (answer,) = stub.StreamPredictions(request(input={"data": image}))
        assert "label" in body(answer)
        requests = [
            request(input={"data": image}, sequence_id="a"),
            request("absent", input={"data": image}, sequence_id="b"),
            request(input={"data": b"text"}),
        ]
        good, absent, bad = stub.StreamPredictions2(iter(requests))
        assert "label" in body(good)
        assert (good.sequence_id, absent.sequence_id) == ("a", "b")
        assert not good.HasField("status")
        assert "Model not found: absent" in absent.status.message
        assert absent.status.code == 13
        assert body(bad)["error"]["code"] == "not_an_image"
        assert not bad.HasField("sequence_id")

    def test_ping(self, server, stub):
        assert json.loads(stub.Ping(Empty()).health) == {"status": "Healthy"}
        server.gateway.readiness.draining = True
        try:
            assert json.loads(stub.Ping(Empty()).health) == {"status": "Unhealthy"}
        finally:
            server.gateway.readiness.draining = False


@pytest.mark.parametrize(
    "fields",
    [
        {"data": bytes(range(256)) * 3},
        {"data": b"x", "explain": b"true", "method": b"occlusion"},
        {"data": b'{"a": 1}', "label": "Größe".encode()},
        {"picture": b"--boundary\r\n\r\n"},
        {"data": b"", "label": b""},
        {},
    ],
)
def test_the_handler_gets_the_fields_as_they_were_sent(fields):
    body, content_type = encode_fields(fields)
    arrived = fields_of(body, content_type)
    if not content_type.startswith("multipart/"):
        assert arrived == {"body": fields.get("data", b"")}
        return
    assert arrived == fields
    # TorchServe decodes the parts of a form that are no files as text.
    assert body.count(b"; filename=") == body.count(b"Content-Type: application/octet-stream") == len(fields)


def test_management_needs_a_host_that_has_it(channel):
    stubs = load_stubs()
    manage = stubs.management_grpc.ManagementAPIsServiceStub(channel)
    messages = stubs.management
    calls = {
        "DescribeModel": messages.DescribeModelRequest(model_name="digits"),
        "ListModels": messages.ListModelsRequest(),
        "RegisterModel": messages.RegisterModelRequest(url="digits.mar"),
        "ScaleWorker": messages.ScaleWorkerRequest(model_name="digits"),
        "SetDefault": messages.SetDefaultRequest(model_name="digits", model_version="1.0"),
        "UnregisterModel": messages.UnregisterModelRequest(model_name="digits"),
    }
    for name, message in calls.items():
        code, details = status_of(lambda name=name, message=message: getattr(manage, name)(message))
        assert (code, details) == ("UNIMPLEMENTED", "this host has no management API")
    for name, message in {
        "DescribeModel": messages.DescribeModelRequest(),
        "RegisterModel": messages.RegisterModelRequest(),
        "SetDefault": messages.SetDefaultRequest(model_name="digits"),
        "ScaleWorker": messages.ScaleWorkerRequest(model_name="digits/1.0/set-default"),
        "UnregisterModel": messages.UnregisterModelRequest(model_name=".."),
    }.items():
        assert status_of(lambda name=name, message=message: getattr(manage, name)(message))[0] == "INVALID_ARGUMENT"
