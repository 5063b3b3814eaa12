"""The gateway's Open Inference Protocol over gRPC: Triton's clients, and messages that no client of theirs makes."""

import asyncio
import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from tests.grpc_gateway import GrpcGateway, status_of
from tests.table_forms import features, flowers, houses, jsonable, make_models

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def tables(once, script) -> Path:
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def server(store, tables):
    archives = {"digits": store / "digits.mar"}
    archives |= {name: tables / "store" / f"{name}.mar" for name in ("houses", "flowers")}
    with GrpcGateway(archives) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def stub(server):
    with server.channel() as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected(run) -> list[dict[str, Any]]:
    """Evaluation's answers for the test images."""
    with (run / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = [name for name in rows[0] if name not in ("path", "label", "predicted")]
    return [
        {
            "path": row["path"],
            "content": Path(row["path"]).read_bytes(),
            "label": row["predicted"],
            "probabilities": [float(row[label]) for label in labels],
        }
        for row in rows
    ]


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def as_objects(contents: list[Any]) -> np.ndarray:
    array = np.empty(len(contents), object)
    array[:] = contents
    return array


def triton_input(name: str, values: np.ndarray, datatype: str) -> triton.InferInput:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def request_of(*inputs: dict[str, Any], model: str = "digits", **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model, inputs=inputs, **fields)


def images(contents: list[bytes], shape: list[int] | None = None) -> dict[str, Any]:
    """A typed tensor of encoded images."""
    shape = [len(contents)] if shape is None else shape
    return {"name": "image", "datatype": "BYTES", "shape": shape, "contents": {"bytes_contents": contents}}


def read(response: pb.ModelInferResponse, name: str) -> np.ndarray:
    return triton.InferResult(response).as_numpy(name)


def check(result: triton.InferResult, samples: list[dict[str, Any]]) -> None:
    """Evaluation's answers, and nothing else."""
    assert result.as_numpy("label").tolist() == [sample["label"].encode() for sample in samples]
    assert result.as_numpy("error").tolist() == [b""] * len(samples)
    given = result.as_numpy("probabilities")
    np.testing.assert_allclose(given, [sample["probabilities"] for sample in samples], rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(result.as_numpy("probability"), given.max(axis=1))
    for text, sample in zip(result.as_numpy("answer"), samples, strict=True):
        assert json.loads(text)["label"] == sample["label"]


def parts(samples: list[dict[str, Any]], size: int = 60) -> list[list[dict[str, Any]]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


class TestTriton:
    def test_probes(self, client, server):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1.0")
        assert not client.is_model_ready("digits", "2.0")
        assert not client.is_model_ready("absent")
        server.gateway.readiness.draining = True
        try:
            assert client.is_server_live()
            assert not client.is_server_ready()
        finally:
            server.gateway.readiness.draining = False

    def test_metadata(self, client):
        server = client.get_server_metadata()
        assert server.name == "marquee"
        assert "binary_tensor_data" in server.extensions
        model = client.get_model_metadata("digits")
        assert (model.name, list(model.versions)) == ("digits", ["1.0"])
        assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("image", "BYTES", [-1])]
        assert {"label", "probabilities", "error", "answer"} <= {tensor.name for tensor in model.outputs}
        rows = client.get_model_metadata("houses", "1.0")
        assert [tensor.name for tensor in rows.inputs][:3] == ["floor area", "rooms", "town"]

    def test_config(self, client):
        config = client.get_model_config("digits").config
        assert (config.name, config.max_batch_size) == ("digits", 0)
        assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("image", 13, [-1])]

    def test_index(self, client):
        index = client.get_model_repository_index()
        assert [(m.name, m.version, m.state) for m in index.models] == [
            ("digits", "1.0", "READY"),
            ("houses", "1.0", "READY"),
            ("flowers", "1.0", "READY"),
        ]

    @pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config"])
    def test_what_is_not_there(self, client, ask):
        for arguments in (("absent",), ("digits", "7")):
            with pytest.raises(InferenceServerException, match=arguments[-1]) as caught:
                getattr(client, ask)(*arguments)
            assert caught.value.status() == "StatusCode.NOT_FOUND"

    def test_every_image_as_bytes(self, client, expected):
        assert len(expected) == 355
        for samples in parts(expected):
            contents = as_objects([sample["content"] for sample in samples])
            check(client.infer("digits", [triton_input("image", contents, "BYTES")]), samples)

    def test_every_image_as_pixels(self, client, expected):
        for samples in parts(expected):
            stack = np.stack([pixels_of(sample["content"]) for sample in samples])
            check(client.infer("digits", [triton_input("image", stack, "UINT8")]), samples)

    def test_floats_are_pixels_from_0_to_1(self, client, expected):
        stack = np.stack([pixels_of(sample["content"]) for sample in expected[:20]]).astype(np.float32) / 255
        check(client.infer("digits", [triton_input("image", stack, "FP32")]), expected[:20])

    def test_rows_of_a_table(self, client, tables):
        rows = [jsonable(row) for row in features(flowers(9))]
        columns = [
            triton_input("length", np.array([row["length"] for row in rows]), "FP64"),
            triton_input("width", np.array([row["width"] for row in rows]), "FP64"),
            triton_input("colour", as_objects([row["colour"].encode() for row in rows]), "BYTES"),
        ]
        result = client.infer("flowers", columns)
        assert result.as_numpy("probabilities").shape == (9, 3)
        labels = result.as_numpy("label").tolist()
        assert set(labels) <= {b"a", b"b", b"c"}
        assert [json.loads(answer)["label"].encode() for answer in result.as_numpy("answer")] == labels

    def test_a_table_with_every_kind_of_column(self, client):
        rows = [jsonable(row) for row in features(houses(20)) if row["energy"] is not None]
        kinds = {"floor area": "FP64", "rooms": "FP64", "garden": "BOOL", "energy": "FP64"}
        columns = []
        for name in rows[0]:
            cells = [row[name] for row in rows]
            kind = kinds.get(name, "BYTES")
            values = as_objects([str(cell).encode() for cell in cells]) if kind == "BYTES" else np.array(cells)
            columns.append(triton_input(name, values if kind in ("BYTES", "BOOL") else values.astype(float), kind))
        result = client.infer("houses", columns)
        assert result.as_numpy("prediction").shape == (len(rows),)
        assert set(result.as_numpy("error")) == {b""}

    def test_the_id_and_wanted_outputs(self, client, expected):
        tensor = triton_input("image", as_objects([expected[0]["content"]]), "BYTES")
        outputs = [triton.InferRequestedOutput("probability"), triton.InferRequestedOutput("label")]
        result = client.infer("digits", [tensor], request_id="seven", outputs=outputs, model_version="1.0")
        response = result.get_response()
        assert response.id == "seven"
        assert (response.model_name, response.model_version) == ("digits", "1.0")
        assert [output.name for output in response.outputs] == ["probability", "label"]
        assert result.as_numpy("answer") is None
        assert not client.infer("digits", [tensor]).get_response().id

    def test_compressed_messages(self, client, expected):
        stack = np.stack([pixels_of(sample["content"]) for sample in expected[:20]])
        tensors = [triton_input("image", stack, "UINT8")]
        check(client.infer("digits", tensors, compression_algorithm="gzip"), expected[:20])

    def test_one_bad_image_of_a_batch(self, client, expected):
        contents = [expected[0]["content"], b"no picture", expected[1]["content"]]
        result = client.infer("digits", [triton_input("image", as_objects(contents), "BYTES")])
        labels, errors = result.as_numpy("label").tolist(), result.as_numpy("error").tolist()
        assert labels == [expected[0]["label"].encode(), b"", expected[1]["label"].encode()]
        assert (errors[0], errors[2]) == (b"", b"")
        assert errors[1]
        assert np.isnan(result.as_numpy("probability")[1])

    @pytest.mark.parametrize(
        ("values", "datatype", "name"),
        [
            (as_objects([b"no picture"]), "BYTES", "image"),
            (as_objects([b"no picture"]), "BYTES", "photo"),
            (np.zeros((1, 2, 3, 4, 5), np.uint8), "UINT8", "image"),
            (np.zeros((2, 8, 8, 2), np.uint8), "UINT8", "image"),
            (np.zeros((1, 8, 8), bool), "BOOL", "image"),
            (np.full((1, 8, 8), 300, np.int32), "INT32", "image"),
        ],
    )
    def test_what_does_not_fit(self, client, values, datatype, name):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("digits", [triton_input(name, values, datatype)])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert caught.value.message()

    def test_asynchronous(self, server, expected):
        async def ask() -> None:
            async with triton_aio.InferenceServerClient(server.address) as client:
                assert await client.is_server_ready()
                contents = as_objects([sample["content"] for sample in expected[:5]])
                tensor = triton_aio.InferInput("image", [5], "BYTES")
                tensor.set_data_from_numpy(contents)
                for result in await asyncio.gather(*(client.infer("digits", [tensor]) for _ in range(4))):
                    check(result, expected[:5])

        asyncio.run(ask())


class TestStream:
    def test_one_answer_for_each_request_in_order(self, server, expected):
        answers: list[tuple[Any, Any]] = []
        with triton.InferenceServerClient(server.address) as client:
            client.start_stream(lambda result, error: answers.append((result, error)))
            for number, sample in enumerate(expected[:40]):
                content = b"no picture" if number == 7 else sample["content"]
                tensor = triton_input("image", as_objects([content]), "BYTES")
                client.async_stream_infer("digits", [tensor], request_id=str(number))
            client.stop_stream()
        assert len(answers) == 40
        for number, (result, error) in enumerate(answers):
            if number == 7:
                assert "image" in str(error)
                continue
            assert error is None
            assert result.get_response().id == str(number)
            assert result.get_response().parameters["triton_final_response"].bool_param
            check(result, [expected[number]])

    def test_an_error_names_its_request(self, stub, expected):
        requests = [
            request_of(images([expected[0]["content"]]), id="first", model="absent"),
            request_of(images([expected[0]["content"]]), id="second"),
        ]
        first, second = stub.ModelStreamInfer(iter(requests))
        assert "absent" in first.error_message
        assert first.infer_response.id == "first"
        assert not second.error_message
        assert second.infer_response.id == "second"

    def test_who_stops_listening(self, server, stub, expected):
        call = stub.ModelStreamInfer(request_of(images([s["content"]])) for s in expected * 5)
        next(call)
        call.cancel()
        assert stub.ServerLive(pb.ServerLiveRequest()).live


class TestTyped:
    def test_every_image_as_bytes(self, stub, expected):
        for samples in parts(expected):
            response = stub.ModelInfer(request_of(images([sample["content"] for sample in samples])))
            check(triton.InferResult(response), samples)

    def test_every_image_as_pixels(self, stub, expected):
        for samples in parts(expected):
            stack = np.stack([pixels_of(sample["content"]) for sample in samples])
            contents = {"uint_contents": stack.ravel().tolist()}
            tensor = {"name": "image", "datatype": "UINT8", "shape": stack.shape, "contents": contents}
            check(triton.InferResult(stub.ModelInfer(request_of(tensor))), samples)

    def test_floats(self, stub, expected):
        pixels = pixels_of(expected[0]["content"]) / 255
        contents = {"fp64_contents": pixels.ravel().tolist()}
        tensor = {"name": "image", "datatype": "FP64", "shape": [1, *pixels.shape], "contents": contents}
        check(triton.InferResult(stub.ModelInfer(request_of(tensor))), expected[:1])

    def test_one_element_of_no_axis(self, stub, expected):
        """As KServe's tests send it."""
        response = stub.ModelInfer(request_of(images([expected[0]["content"]], shape=[])))
        check(triton.InferResult(response), expected[:1])
        raw = serialize_byte_tensor(as_objects([expected[0]["content"]])).item()
        tensor = {"name": "image", "datatype": "BYTES", "shape": []}
        check(triton.InferResult(stub.ModelInfer(request_of(tensor, raw_input_contents=[raw]))), expected[:1])

    def test_a_shape_that_is_open(self, stub, expected):
        """As KServe's sample for TorchServe has it: a tensor for each image, under any name."""
        tensor = {**images([expected[0]["content"]], shape=[-1]), "name": "312a4eb0-0ca7"}
        check(triton.InferResult(stub.ModelInfer(request_of(tensor))), expected[:1])

    def test_the_answer_is_raw_unless_it_is_asked_for(self, stub, expected):
        request = request_of(images([expected[0]["content"]]))
        response = stub.ModelInfer(request)
        assert len(response.raw_output_contents) == len(response.outputs)
        assert not any(output.HasField("contents") for output in response.outputs)
        request.parameters["binary_data_output"].bool_param = False
        typed = stub.ModelInfer(request)
        assert not typed.raw_output_contents
        contents = {output.name: output.contents for output in typed.outputs}
        assert list(contents["label"].bytes_contents) == [expected[0]["label"].encode()]
        np.testing.assert_array_equal(contents["probabilities"].fp64_contents, read(response, "probabilities")[0])
        assert list(contents["abstained"].bool_contents) == read(response, "abstained").tolist()


SIXTEEN = {"name": "image", "datatype": "FP16", "shape": [1], "contents": {"fp32_contents": [1.0]}}
MALFORMED: dict[str, tuple[pb.ModelInferRequest, str]] = {
    "no model": (request_of(images([b"x"]), model=""), "model_name"),
    "no input": (request_of(), "inputs"),
    "raw and typed": (request_of(images([b"x"]), raw_input_contents=[b"\1\0\0\0x"]), "beside raw_input_contents"),
    "raw and typed in another input": (
        request_of({"name": "a", "datatype": "INT8", "shape": [1]}, images([b"x"]), raw_input_contents=[b"x", b"x"]),
        "beside raw_input_contents",
    ),
    "more raw contents than inputs": (
        request_of({"name": "image", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[b"", b""]),
        "expected one for each of 1 inputs, got 2",
    ),
    "fewer raw contents than inputs": (
        request_of(*[{"name": n, "datatype": "BYTES", "shape": [1]} for n in "ab"], raw_input_contents=[b""]),
        "expected one for each of 2 inputs, got 1",
    ),
    "raw contents of another size": (
        request_of({"name": "image", "datatype": "UINT8", "shape": [2, 2]}, raw_input_contents=[b"xyz"]),
        "4",
    ),
    "bytes without a length": (
        request_of({"name": "image", "datatype": "BYTES", "shape": [1]}, raw_input_contents=[b"\x89PNG and more"]),
        "length",
    ),
    "bytes that end early": (
        request_of({"name": "image", "datatype": "BYTES", "shape": [2]}, raw_input_contents=[b"\1\0\0\0x\1\0"]),
        "image",
    ),
    "contents of another number": (request_of(images([b"x"], [3])), "3 elements, bytes_contents has 1"),
    "contents of another type": (
        request_of({"name": "image", "datatype": "UINT8", "shape": [1], "contents": {"int_contents": [1]}}),
        "expected uint_contents for UINT8, got int_contents",
    ),
    "contents that do not fit the type": (
        request_of({"name": "image", "datatype": "UINT8", "shape": [1], "contents": {"uint_contents": [256]}}),
        "does not fit UINT8",
    ),
    "a type without contents": (request_of(SIXTEEN), "send raw_input_contents"),
    "no such type": (request_of({"name": "image", "datatype": "JPEG", "shape": [1]}), "JPEG"),
    "no type": (request_of({"name": "image", "shape": [1]}, raw_input_contents=[b"x"]), "datatype"),
    "a negative length": (
        request_of({"name": "image", "datatype": "UINT8", "shape": [-2]}, raw_input_contents=[b"xx"]),
        "shape",
    ),
    "a length that no request has": (
        request_of({"name": "image", "datatype": "UINT8", "shape": [2**62, 4]}, raw_input_contents=[b"xx"]),
        "shape",
    ),
    "a tensor twice": (request_of(images([b"x"]), images([b"x"])), "twice"),
    "an output that is not there": (request_of(images([b"x"]), outputs=[{"name": "absent"}]), "absent"),
    "shared memory": (
        request_of(
            {
                **images([]),
                "contents": None,
                "parameters": {"shared_memory_region": pb.InferParameter(string_param="a")},
            }
        ),
        "shared memory is not supported",
    ),
    "a parameter that JSON has no number for": (
        request_of(images([b"x"]), parameters={"x": pb.InferParameter(double_param=float("nan"))}),
        "JSON",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(stub, case):
    request, words = MALFORMED[case]
    code, details = status_of(lambda: stub.ModelInfer(request))
    assert code == "INVALID_ARGUMENT", details
    assert words in details


def test_unknown_models_and_versions(stub, expected):
    tensor = images([expected[0]["content"]])
    for fields in ({"model": "absent"}, {"model_version": "9"}, {"model": "../digits"}):
        code, details = status_of(lambda fields=fields: stub.ModelInfer(request_of(tensor, **fields)))
        assert code == "NOT_FOUND", details


def test_names_that_no_status_can_hold(stub, expected):
    tensor = images([expected[0]["content"]])
    for letter in ("x", "ä", "\U0001f600"):
        code, details = status_of(lambda letter=letter: stub.ModelInfer(request_of(tensor, model=letter * 50_000)))
        assert code == "NOT_FOUND"
        assert letter * 100 in details


def test_parameters_of_every_kind_are_taken(stub, expected):
    parameters = {
        "a": pb.InferParameter(bool_param=True),
        "b": pb.InferParameter(int64_param=-5),
        "c": pb.InferParameter(string_param="text"),
        "d": pb.InferParameter(double_param=0.5),
        "e": pb.InferParameter(uint64_param=2**64 - 1),
        "f": pb.InferParameter(),
        "binary_data_size": pb.InferParameter(int64_param=3),
    }
    tensor = {**images([expected[0]["content"]]), "parameters": parameters}
    check(triton.InferResult(stub.ModelInfer(request_of(tensor, parameters=parameters))), expected[:1])


def test_bytes_that_are_no_message(server):
    with server.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        code, details = status_of(lambda: call(b"\xff\xff\xff"))
    assert (code, details) == ("INVALID_ARGUMENT", "not a message of the type inference.ModelInferRequest")


def test_methods_without_a_meaning_here_say_why(stub):
    calls = {
        "ModelStatistics": pb.ModelStatisticsRequest(),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(),
        "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(),
        "TraceSetting": pb.TraceSettingRequest(),
        "LogSettings": pb.LogSettingsRequest(),
    }
    for name, request in calls.items():
        code, details = status_of(lambda name=name, request=request: getattr(stub, name)(request))
        assert code == "UNIMPLEMENTED"
        assert len(details.split()) > 3


def test_health_for_kubernetes(server):
    with server.channel() as channel:
        check_health = channel.unary_unary("/grpc.health.v1.Health/Check")
        service = b"\x0a\x06digits"  # field 1, a text of six letters
        for request in (b"", service):
            assert check_health(request) == b"\x08\x01"
        server.gateway.readiness.draining = True
        try:
            assert check_health(b"") == b"\x08\x02"
        finally:
            server.gateway.readiness.draining = False
        assert status_of(lambda: check_health(b"\x0a\x06absent"))[0] == "NOT_FOUND"
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        assert status_of(lambda: list(watch(b"")))[0] == "UNIMPLEMENTED"


def test_a_method_that_is_not_there(server):
    with server.channel() as channel:
        for path in ("/inference.GRPCInferenceService/Absent", "/other.Service/Method", "/x"):
            call = channel.unary_unary(path)
            assert status_of(lambda call=call: call(b""))[0] == "UNIMPLEMENTED"


def test_kserve(server, kserve, expected):
    """Its client in a process of its own."""
    program = Path(__file__).parent / "kserve_grpc_client.py"
    command = [kserve, program, server.address, expected[0]["path"]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["probes"] == [True, True, True, False]
    assert {said["typed"], said["scalar"], said["raw"]} == {expected[0]["label"]}
    np.testing.assert_allclose(said["probabilities"], expected[0]["probabilities"], rtol=0, atol=TOLERANCE)
    assert said["absent"] == ["NOT_FOUND", "unknown model 'absent'"]
