"""The gateway's gRPC in front of a real TorchServe: a client of TorchServe gets from both the same."""

import asyncio
import csv
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given

from marquee.gateway.assembly import Doorway
from marquee.gateway.config import GatewayConfig
from marquee.serving.grpc_stubs import load_stubs
from tests.conftest import Served, find_free_port
from tests.grpc_messages import INFER, PREDICTIONS, check_any, infer_requests, predictions_requests
from tests.properties import many

INFERENCE, MANAGEMENT = load_stubs().inference, load_stubs().management


@pytest.fixture(scope="module")
def address(served) -> Iterator[str]:
    """Of the gateway's gRPC; it asks for no keys, and runs in an event loop of its own."""
    port = find_free_port()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(300)

    async def assemble() -> Any:
        assembly = Doorway.find(GatewayConfig(port=port), 100).assemble(served.server)
        await assembly.open()
        return assembly

    assembly = run(assemble())
    yield f"127.0.0.1:{port + 1}"
    run(assembly.close(5))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class Both:
    """The same call to TorchServe, with its token, and to the gateway."""

    def __init__(self, served: Served, address: str) -> None:
        addresses = served.server.addresses
        self._served = served
        self._own = {
            "inference": grpc.insecure_channel(addresses.grpc_inference),
            "management": grpc.insecure_channel(addresses.grpc_management),
        }
        self._gateway = grpc.insecure_channel(address)

    def close(self) -> None:
        for channel in (*self._own.values(), self._gateway):
            channel.close()

    def ask(self, kind: str, method: str, request: Any) -> tuple[Any, Any]:
        """What TorchServe answers, and what the gateway does: a message, or the status and a line of its words."""
        stubs = load_stubs()
        stub = {
            "inference": stubs.inference_grpc.InferenceAPIsServiceStub,
            "management": stubs.management_grpc.ManagementAPIsServiceStub,
        }[kind]
        metadata = [("protocol", "gRPC"), ("authorization", self._served.headers(kind)["Authorization"])]
        own = outcome(lambda: getattr(stub(self._own[kind]), method)(request, metadata=metadata, timeout=120))
        gateway = outcome(lambda: getattr(stub(self._gateway), method)(request, timeout=120))
        return own, gateway


def outcome(call: Callable[[], Any]) -> Any:
    try:
        answer = call()
        return list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        return error.code().name, str(error.details()).partition("\n")[0]


@pytest.fixture(scope="module")
def both(served, address) -> Iterator[Both]:
    made = Both(served, address)
    yield made
    made.close()


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, str]]:
    with (run / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def image(rows) -> bytes:
    return Path(rows[0]["path"]).read_bytes()


def prediction(**fields: Any) -> Any:
    return INFERENCE.PredictionsRequest(**{"model_name": "digits", **fields})


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize(
    "fields",
    [
        lambda image: {"data": image},
        lambda image: {"body": image},
        lambda image: {"picture": image},
        lambda image: {'a "name"\n': image},
        lambda image: {"data": image, "body": image},
        lambda image: {"data": b"text"},
        lambda image: {"data": b""},
        lambda image: {"data": json.dumps({"instances": [{"b64": "no"}, {"image_data": [[0, 2], [3, 4]]}]}).encode()},
    ],
)
def test_predictions(both, image, method, fields):
    own, gateway = both.ask("inference", method, prediction(input=fields(image)))
    if method == "StreamPredictions":
        (own,), (gateway,) = own, gateway
    assert json.loads(gateway.prediction) == json.loads(own.prediction)


def test_an_explanation(both, image):
    fields = {"data": image, "explain": b"true", "method": b"occlusion", "label": b"3"}
    for answer in both.ask("inference", "Predictions", prediction(input=fields)):
        explanation = json.loads(answer.prediction)["explanation"]
        assert (explanation["method"], explanation["label"]) == ("occlusion", "3")


@pytest.mark.parametrize("fields", [{"model_name": "absent"}, {"model_version": "9"}])
def test_what_is_not_there(both, image, fields):
    own, gateway = both.ask("inference", "Predictions", prediction(input={"data": image}, **fields))
    assert gateway == own
    assert own[0] == "INTERNAL"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("DescribeModel", MANAGEMENT.DescribeModelRequest(model_name="digits", model_version="1.0")),
        ("DescribeModel", MANAGEMENT.DescribeModelRequest(model_name="absent")),
        ("DescribeModel", MANAGEMENT.DescribeModelRequest(model_name="digits", model_version="9")),
        ("ListModels", MANAGEMENT.ListModelsRequest(limit=10)),
        ("ScaleWorker", MANAGEMENT.ScaleWorkerRequest(model_name="digits", min_worker=1, synchronous=True)),
        ("ScaleWorker", MANAGEMENT.ScaleWorkerRequest(model_name="absent", min_worker=1)),
        ("SetDefault", MANAGEMENT.SetDefaultRequest(model_name="digits", model_version="1.0")),
        ("SetDefault", MANAGEMENT.SetDefaultRequest(model_name="digits", model_version="9")),
        ("RegisterModel", MANAGEMENT.RegisterModelRequest(url="digits.mar")),
        ("UnregisterModel", MANAGEMENT.UnregisterModelRequest(model_name="digits")),
    ],
)
def test_management(both, method, request_):
    own, gateway = both.ask("management", method, request_)
    if isinstance(own, tuple):
        assert gateway == own
    elif own.msg.startswith(("[", "{")):
        assert [entry["modelName"] for entry in models(gateway)] == [entry["modelName"] for entry in models(own)]
    else:
        assert gateway.msg == own.msg


def models(response: Any) -> Any:
    document = json.loads(response.msg)
    return document["models"] if isinstance(document, dict) else document


def test_a_description_by_the_model_itself(both):
    request = MANAGEMENT.DescribeModelRequest(model_name="digits", customized=True)
    own, gateway = both.ask("management", "DescribeModel", request)
    (own,), (gateway,) = models(own), models(gateway)
    assert gateway["customizedMetadata"] == own["customizedMetadata"]


def test_every_image_over_the_open_inference_protocol(address, rows):
    assert len(rows) == 355
    labels = [name for name in rows[0] if name not in ("path", "label", "predicted")]
    with triton.InferenceServerClient(address) as client:
        assert client.get_model_metadata("digits").inputs[0].name == "image"
        for start in range(0, len(rows), 60):
            part = rows[start : start + 60]
            contents = np.empty(len(part), object)
            contents[:] = [Path(row["path"]).read_bytes() for row in part]
            tensor = triton.InferInput("image", [len(part)], "BYTES")
            tensor.set_data_from_numpy(contents)
            result = client.infer("digits", [tensor], request_id=str(start))
            assert result.as_numpy("label").tolist() == [row["predicted"].encode() for row in part]
            expected = [[float(row[label]) for label in labels] for row in part]
            np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=0, atol=1e-6)


def test_one_bad_image_of_a_batch(address, image):
    contents = np.empty(2, object)
    contents[:] = [b"no picture", image]
    tensor = triton.InferInput("image", [2], "BYTES")
    tensor.set_data_from_numpy(contents)
    with triton.InferenceServerClient(address) as client:
        errors = client.infer("digits", [tensor]).as_numpy("error").tolist()
    assert errors[0]
    assert errors[1] == b""


@pytest.mark.slow
def test_whatever_comes_the_worker_stays(address, served, image):
    """Messages of both protocols: each call ends with a status of the table, and the next is answered."""

    def worker() -> Any:
        (version,) = served.client.describe("digits")
        return [(worker["pid"], worker["status"]) for worker in version["workers"]]

    before = worker()
    with grpc.insecure_channel(address) as channel:

        @many(250)
        @given(message=infer_requests(image))
        def oip(message: Any) -> None:
            check_any(channel, INFER, message.SerializeToString())

        @many(125)
        @given(message=predictions_requests(image))
        def torchserve(message: Any) -> None:
            check_any(channel, PREDICTIONS, message.SerializeToString())

        oip()
        torchserve()
    assert worker() == before
    assert before[0][1] == "READY"
