"""Requests of the Open Inference Protocol to a model of images, as the worker hands them to its handler."""

import base64
import gzip
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from ts.service import Service

from marquee.handlers.core.golden import read_golden
from marquee.handlers.core.oip.datatypes import pack, pack_bytes
from marquee.handlers.core.oip.tensor import Tensor
from marquee.handlers.core.oip.wire import HEADER_LENGTH, RawTensor
from marquee.handlers.inputs.image.tensors import elements_of
from marquee.handlers.outputs.classification import Prediction
from marquee.serving.archive import package
from tests.conftest import ROOT
from tests.unit.oip_door import OF_THE_CLIENT, REST, Answer, Door, tensor, with_header
from tests.unit.test_service import Metrics

OUTPUTS = ["label", "probability", "probabilities", "abstained", "distance", "error", "answer"]
GRPC = {"body": {"content-type": ""}}
"""Headers by which TorchServe tells gRPC."""


@pytest.fixture(scope="module")
def door(store, tmp_path_factory) -> Door:
    return Door(store / "digits.mar", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def files(digits) -> list[bytes]:
    return [next((digits / "test" / label).glob("*.png")).read_bytes() for label in "0123456789"]


@pytest.fixture(scope="module")
def expected(door, files) -> list[Prediction]:
    """What evaluation's predictor answers."""
    return door.handler.predictor.predict(files)


@pytest.fixture(scope="module")
def pixels(files) -> np.ndarray:
    """uint8 (10, 8, 8)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in files])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(files: list[bytes], **parameters: Any) -> dict[str, Any]:
    return tensor("image", "BYTES", [len(files)], [b64(data) for data in files], content_type="base64", **parameters)


def raw(files: list[bytes], *shape: int) -> RawTensor:
    return RawTensor(name="image", datatype="BYTES", shape=shape or (len(files),), raw=pack_bytes(files))


def assert_equal(answer: Answer, expected: list[Prediction], tolerance: float = 1e-6) -> None:
    """Every tensor says what the predictor says."""
    outputs = answer.outputs()
    assert list(outputs) == OUTPUTS
    assert [label.decode() for label in outputs["label"]] == [wanted.label for wanted in expected]
    assert np.allclose(outputs["probability"], [wanted.probability for wanted in expected], atol=tolerance)
    assert np.allclose(outputs["probabilities"], [wanted.probabilities for wanted in expected], atol=tolerance)
    assert np.allclose(outputs["distance"], [wanted.distance for wanted in expected], atol=1e-4)
    assert outputs["abstained"].tolist() == [wanted.abstained is not None for wanted in expected]
    assert outputs["error"].tolist() == [b""] * len(expected)
    for text, wanted in zip(outputs["answer"], expected, strict=True):
        assert json.loads(text)["ranking"][0]["label"] == wanted.label
        assert json.loads(text).keys() == wanted.as_json().keys()


class TestImages:
    def test_files_as_json(self, door, files, expected):
        answer = door.infer(encoded(files))
        assert answer.headers == {"content-type": "application/json"}
        assert_equal(answer, expected)

    def test_files_as_binary_data(self, door, files, expected):
        answer = door.infer_raw(raw(files))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert_equal(answer, expected)
        assert_equal(door.infer_raw(raw(files, 10, 1)), expected)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
    def test_one_file(self, door, files, expected, shape):
        answer = door.infer_raw(
            raw(files[3:4], *shape)
            if shape
            else RawTensor(name="image", datatype="BYTES", shape=(), raw=pack_bytes(files[3:4]))
        )
        assert_equal(answer, expected[3:4])
        as_json = door.infer(tensor("image", "BYTES", list(shape), [b64(files[3])], content_type="base64"))
        assert_equal(as_json, expected[3:4])
        assert as_json.document["outputs"][0]["shape"] == [1]

    @pytest.mark.parametrize(
        "write",
        [
            lambda data: {"inputs": [tensor("image", "BYTES", [1], [b64(data)])]},  # without a word about it
            lambda data: {"inputs": [tensor("image", "BYTES", [1], ["data:image/png;base64," + b64(data)])]},
            lambda data: {"inputs": [tensor("image", "BYTES", [1], [{"b64": b64(data)}])]},
            lambda data: {
                "inputs": [tensor("image", "BYTES", [1], [b64(data)])],
                "parameters": {"content_type": "base64"},
            },
            lambda data: {"inputs": [tensor("image", "BYTES", [], b64(data), content_type="base64")]},
            # KServe's sample for TorchServe: a made-up name, and a shape that says nothing.
            lambda data: {"inputs": [tensor("312a4eb0-0ca7-4803-a101-a6d2c18486fe", "BYTES", [-1], [b64(data)])]},
        ],
        ids=range(6),
    )
    def test_base64_as_clients_write_it(self, door, files, expected, write):
        assert_equal(door.ask(write(files[7])), expected[7:8])
        assert_equal(door.ask(json.dumps(write(files[7])).encode()), expected[7:8])

    def test_tensors_for_each_image_of_kserves_sample(self, door, files, expected):
        tensors = [tensor(f"n{i}", "BYTES", [-1], [b64(data)]) for i, data in enumerate(files)]
        assert_equal(door.infer(*tensors), expected)
        raws = [
            RawTensor(name=f"n{i}", datatype="BYTES", shape=(-1,), raw=pack_bytes(files[5 * i : 5 * i + 5]))
            for i in (0, 1)
        ]
        assert_equal(door.infer_raw(*raws), expected)

    def test_base64_in_binary_data(self, door, files, expected):
        text = RawTensor(
            name="image",
            datatype="BYTES",
            shape=(10,),
            raw=pack_bytes([b64(data) for data in files]),
            parameters={"content_type": "base64"},
        )
        assert_equal(door.infer_raw(text), expected)

    @pytest.mark.parametrize("shape", [(10, 8, 8), (10, 8, 8, 1)], ids=str)
    @pytest.mark.parametrize(
        ("datatype", "white", "parameters"),
        [
            ("UINT8", 255, {}),
            ("INT64", 255, {"range": 255}),
            ("FP32", 1, {}),
            ("FP32", 1, {"range": 1}),
            ("FP32", 255, {"range": 255}),
            ("FP64", 1, {}),
            ("FP16", 1, {}),
        ],
    )
    def test_pixels(self, door, pixels, expected, shape, datatype, white, parameters):
        values = (pixels if white == 255 else pixels / 255).reshape(shape)
        data = pack(values, datatype)
        binary = RawTensor(name="image", datatype=datatype, shape=shape, raw=data, parameters=parameters)
        assert_equal(door.infer_raw(binary), expected)
        assert_equal(door.infer(tensor("image", datatype, list(shape), values.tolist(), **parameters)), expected)
        flat = tensor("image", datatype, list(shape), values.ravel().tolist(), **parameters)
        assert_equal(door.infer(flat), expected)

    def test_the_rounding_of_fp16(self):
        """255 times a float16 would be rounded twice."""
        value = np.array([[0.982421875]], np.float16)
        tensor = Tensor(name="image", datatype="FP16", values=value, parameters={})
        ((_, array),) = elements_of([tensor], 1)
        assert np.rint(array * 255) == 251

    def test_bf16_pixels(self, door, pixels):
        answer = door.infer_raw(
            RawTensor(name="image", datatype="BF16", shape=(10, 8, 8), raw=pack(pixels / 255, "BF16"))
        )
        assert answer.status == 200

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8), (1, 8, 8, 1)], ids=str)
    def test_one_image_of_pixels(self, door, pixels, expected, shape):
        one = RawTensor(name="image", datatype="UINT8", shape=shape, raw=pixels[5].tobytes())
        assert_equal(door.infer_raw(one), expected[5:6])

    def test_colours(self, door, pixels, expected):
        colours = np.repeat(pixels[..., None], 3, axis=3)
        assert_equal(
            door.infer_raw(RawTensor(name="image", datatype="UINT8", shape=colours.shape, raw=colours.tobytes())),
            expected,
        )
        one = RawTensor(name="image", datatype="UINT8", shape=(8, 8, 3), raw=colours[5].tobytes())
        assert_equal(door.infer_raw(one), expected[5:6])

    @pytest.mark.parametrize(
        ("datatype", "shape", "data", "message"),
        [
            ("UINT8", [1, 2, 2], [0, 1, 1, 0], 'say what white is: "range": 1 or "range": 255 among the parameters'),
            ("FP32", [1, 2, 2], [0, 255, 3, 4], "floats must lie in 0..1"),
            ("INT16", [1, 2, 2], [0, 256, 3, 4], "integers must lie in 0..255"),
            ("INT16", [1, 2, 2], [0, -1, 3, 4], "integers must lie in 0..255"),
            ("FP32", [1, 2, 2], [0, None, 0, 0], "floats must lie in 0..1"),
            ("FP32", [1, 3, 2, 2], [0.5] * 12, "got [1, 3, 2, 2]; the channels come last"),
            ("FP32", [1, 2, 2, 4], [0.5] * 16, "with 1 or 3 channels, got [1, 2, 2, 4]"),
            ("FP32", [1, 3, 3], [0.5] * 9, "[1, H, W] and [H, W, C] are both possible for [1, 3, 3]; send four axes"),
            ("FP32", [1, 4, 1], [0.5] * 4, "both possible"),
            ("FP32", [4], [0.5] * 4, "expected [N, H, W, C], [H, W, C] or [N, H, W]"),
            ("FP32", [], [0.5], "got []"),
            ("FP32", [1, 1, 2, 2, 1], [0.5] * 4, "got [1, 1, 2, 2, 1]"),
            ("BOOL", [1, 2, 2], [True] * 4, "expected BYTES, integers or floats, got BOOL"),
            ("BYTES", [1, 2], ["a", "b"], "expected the shape [N] or [N, 1], with one element an item, got [1, 2]"),
            ("UINT8", [65, 1, 2], [9] * 130, "65 items; at most 64"),
        ],
    )
    def test_tensors_that_are_no_images(self, door, datatype, shape, data, message):
        assert message in door.infer(tensor("image", datatype, shape, data)).error

    def test_an_unknown_range(self, door, pixels):
        assert (
            "range: expected 1 or 255, got 2"
            in door.infer(tensor("image", "UINT8", [8, 8], pixels[0].tolist(), range=2)).error
        )

    def test_one_image_of_pixels_is_bad(self, door, pixels, expected):
        mixed = pixels / 255
        mixed[4, 0, 0] = 2
        outputs = door.infer_raw(
            RawTensor(name="image", datatype="FP32", shape=(10, 8, 8), raw=pack(mixed, "FP32"))
        ).outputs()
        assert [bool(text) for text in outputs["error"]] == [i == 4 for i in range(10)]
        assert [label.decode() for label in outputs["label"]] == [
            "" if i == 4 else wanted.label for i, wanted in enumerate(expected)
        ]

    def test_as_many_pixels_as_one_image_may_have(self, door):
        """The budget of a request holds for its tensors, too."""
        large = io.BytesIO()
        Image.new("L", (6_000, 6_000)).save(large, "PNG")
        outputs = door.infer_raw(raw([large.getvalue()] * 2)).outputs()
        assert outputs["error"][0] == b""
        assert b"the images of one request may have 50000000 pixels together" in outputs["error"][1]


class TestErrors:
    def test_a_bad_item_among_good_ones(self, door, files, expected):
        answer = door.infer(encoded([files[0], b"text", files[1], b""]))
        outputs = answer.outputs()
        assert [label.decode() for label in outputs["label"]] == [expected[0].label, "", expected[1].label, ""]
        assert outputs["error"][1].startswith(b"not an image of a known format")
        assert outputs["error"][3]
        assert np.isnan(outputs["probability"]).tolist() == [False, True, False, True]
        assert np.isnan(outputs["probabilities"]).all(axis=1).tolist() == [False, True, False, True]
        assert outputs["abstained"].tolist()[1] is True
        errors = [json.loads(text).get("error", {}).get("code") for text in outputs["answer"]]
        assert errors == [None, "not_an_image", None, "empty"]
        by_name = {output["name"]: output["data"] for output in answer.document["outputs"]}
        assert by_name["probability"][1] is None

    def test_without_the_faster_library(self, door, files, monkeypatch):
        """The standard one writes no NaN, and neither must an answer."""
        monkeypatch.setattr("marquee.handlers.core.json_text.orjson", None)
        answer = door.infer(encoded([files[0], b"text"]))
        assert np.isnan(answer.outputs()["probability"]).tolist() == [False, True]
        assert b"NaN" not in answer.body

    def test_only_bad_items(self, door):
        answer = door.infer(encoded([b"text"]))
        assert (answer.status, answer.error.startswith("not an image of a known format")) == (400, True)
        answer = door.infer(encoded([b"text", b"other"]))
        assert answer.error.startswith("none of 2 items can be used; not an image")
        assert answer.headers == {"content-type": "application/json"}

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ({"inputs": [tensor("picture", "BYTES", [1], ["a"])]}, 'unknown tensor "picture"; the model takes "image"'),
            (
                {"inputs": [tensor("image", "BYTES", [1], ["a"]), tensor("x", "BYTES", [1], ["a"])]},
                'unknown tensor "x"; the model takes "image"',
            ),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])] * 2}, 'tensor "image" is there twice'),
            ({"inputs": [tensor("image", "BYTES", [2], ["a"])]}, "shape [2] has 2 elements, data has 1"),
            ({"inputs": [tensor("image", "TEXT", [1], ["a"])]}, "datatype: expected one of BOOL"),
            ({"inputs": [tensor("image", "BYTES", [65], ["a"] * 65)]}, "65 items; at most 64 in one request"),
            ({"inputs": [tensor("image", "BYTES", [1], ["hello"])]}, '"parameters": {"content_type": "base64"}'),
            ({"inputs": [tensor("image", "BYTES", [1], ["*"], content_type="base64")]}, "not valid base64"),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])], "id": 7}, "id: expected a text, got 7"),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])], "id": "\ud800"}, "id: expected a text"),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])], "parameters": 7}, "parameters: expected an object"),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])], "outputs": {}}, "outputs: expected a list"),
            ({"inputs": [tensor("image", "BYTES", [1], ["a"])], "outputs": ["label"]}, "outputs: expected objects"),
            (
                {"inputs": [tensor("image", "BYTES", [1], ["a"])], "outputs": [{"name": "labels"}]},
                'unknown output "labels"; the model has label, probability, probabilities, abstained, distance, error',
            ),
            (
                {"inputs": [tensor("image", "BYTES", [1], ["a"])], "outputs": [{"name": "label"}] * 2},
                'outputs: "label" is there 2 times',
            ),
            (
                {
                    "inputs": [tensor("image", "BYTES", [1], ["a"])],
                    "outputs": [{"name": "label", "parameters": {"binary_data": 1}}],
                },
                "binary_data: expected true or false, got 1",
            ),
            (
                {"inputs": [tensor("image", "BYTES", [1], ["a"])], "parameters": {"binary_data_output": "yes"}},
                'binary_data_output: expected true or false, got "yes"',
            ),
            # Not recognised as the protocol, and not as anything else either: a member is missing.
            ({"inputs": [{"name": "image", "shape": [1], "data": ["a"]}]}, 'tensor "image": datatype is missing'),
            ({"inputs": [{"name": "image", "datatype": "BYTES", "data": ["a"]}]}, 'tensor "image": shape is missing'),
            ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}, 'tensor "image": data is missing'),
        ],
    )
    def test_requests_that_cannot_be_read(self, door, document, message):
        answer = door.ask(document)
        assert message in answer.error
        assert answer.status == (413 if "at most 64" in message else 400)

    @pytest.mark.parametrize(
        ("body", "length", "message"),
        [
            (b"{}", "9", "9, but the body has 2 bytes"),
            (b"{}", "x", "expected a number of bytes"),
            (b"{}", "2", "inputs: expected a list of at least one tensor"),
            (b"nope", "4", "not valid JSON"),
            (b"", "4", "the body is empty"),
            (b"[1]", "3", "expected a JSON object"),
            ([1], "3", "expected a JSON object, got a list"),
        ],
    )
    def test_binary_requests_that_cannot_be_read(self, door, body, length, message):
        assert message in door.ask(body, {**REST, OF_THE_CLIENT: length}).error

    def test_bytes_that_are_no_tensor(self, door, files):
        head = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(files[0])}}
        body, headers = with_header({"inputs": [head]}, files[0])
        assert "is its length there, as four bytes in little-endian order?" in door.ask(body, headers).error
        body, headers = with_header({"inputs": [head]}, files[0] + b"x")
        assert "follow the document" in door.ask(body, headers).error
        assert "0 follow the document" in door.ask({"inputs": [head]}).error

    def test_an_engine_that_fails(self, door, files, monkeypatch):
        def fail(batch):
            raise RuntimeError("out of something")

        monkeypatch.setattr(door.handler.predictor, "engine", fail)
        answer = door.infer(encoded(files[:2]))
        assert (answer.status, answer.error) == (
            503,
            "none of 2 items can be used; the model could not be run; try again",
        )

    def test_a_mistake_of_ours(self, door, files, expected, monkeypatch):
        """It fails one request, not those that came in the same batch."""

        def fail(*_):
            raise ZeroDivisionError

        monkeypatch.setattr("marquee.handlers.core.oip.protocol.open_items", fail)
        first, second = door.batch([{"body": {"inputs": [encoded(files[:1])]}}, {"body": files[1]}], [REST, REST])
        assert (first.status, first.error) == (500, "the request could not be read")
        assert second.document["label"] == expected[1].label

    def test_an_explanation(self, door, files):
        answer = door.ask({"inputs": [encoded(files[:1])]}, {**REST, "explain": "True"})
        assert (answer.status, answer.error.startswith("this protocol has no explanations")) == (501, True)

    def test_an_answer_that_is_too_long(self, door, files, monkeypatch):
        for limit in (200, 2_000):  # as known before it is written, and after
            monkeypatch.setattr("marquee.handlers.core.oip.answer.MAX_ANSWER_BYTES", limit)
            answer = door.infer(encoded(files))
            assert (answer.status, "ask for fewer outputs" in answer.error) == (413, True)
        assert door.infer(encoded(files), outputs=[{"name": "label"}]).status == 200


class TestEnvelope:
    def test_the_id_is_repeated_only_where_it_is_given(self, door, files):
        document = door.infer(encoded(files[:1]), id="é 7").document
        assert document["id"] == "é 7"
        assert "id" not in door.infer(encoded(files[:1])).document
        assert "id" not in door.infer(encoded(files[:1]), id=None).document

    def test_what_answered(self, door, files):
        document = door.infer(encoded(files[:1])).document
        predictor = door.handler.predictor
        assert (document["model_name"], document["model_version"]) == ("digits", "1.0")
        assert document["parameters"] == {"bundle": predictor.digest, "variant": predictor.variant.name}

    def test_outputs_that_are_asked_for(self, door, files):
        answer = door.infer(encoded(files), outputs=[{"name": "error"}, {"name": "label", "parameters": {"x": 1}}])
        assert [output["name"] for output in answer.document["outputs"]] == ["error", "label"]
        assert door.infer(encoded(files), outputs=[]).outputs().keys() == set(OUTPUTS)

    def test_raw_and_json_outputs_in_one_answer(self, door, files, expected):
        wanted = [
            {"name": "probabilities", "parameters": {"binary_data": True}},
            {"name": "label", "parameters": {"binary_data": False}},
            {"name": "answer"},
        ]
        answer = door.infer(encoded(files), outputs=wanted)
        heads = answer.document["outputs"]
        assert ["data" in head for head in heads] == [False, True, True]
        assert heads[0]["parameters"] == {"binary_data_size": 10 * 10 * 8}
        assert np.allclose(answer.outputs()["probabilities"], [one.probabilities for one in expected], atol=1e-6)
        by_default = door.infer(encoded(files), outputs=wanted, parameters={"binary_data_output": True})
        assert ["data" in head for head in by_default.document["outputs"]] == [False, True, False]

    def test_parameters_that_nobody_knows(self, door, files, expected):
        parameters = {"priority": 3, "sequence_id": "x", "binary_data_output": None}
        assert_equal(door.infer(encoded(files, other={"a": [1]}), parameters=parameters), expected)

    def test_the_header_in_any_case(self, door, files, expected):
        body, headers = with_header({"inputs": [encoded(files)]})
        for name in (HEADER_LENGTH, HEADER_LENGTH.upper(), OF_THE_CLIENT):
            assert_equal(door.ask(body, {**REST, name: headers[OF_THE_CLIENT]}), expected)

    def test_a_document_that_the_server_has_parsed_with_the_header(self, door, files, expected):
        """A client may send the header, and application/json."""
        assert_equal(door.ask({"inputs": [encoded(files)]}, {**REST, OF_THE_CLIENT: "9"}), expected)

    def test_a_length_of_zero_is_a_file(self, door, files, expected):
        """The body is the one tensor's content, as Triton has it."""
        assert_equal(door.ask(files[2], {**REST, OF_THE_CLIENT: "0"}), expected[2:3])
        assert "not an image" in door.ask(b"text", {**REST, OF_THE_CLIENT: "0"}).error

    def test_a_packed_body(self, door, files, expected):
        """The header counts what is inside."""
        body, headers = with_header({"inputs": [encoded(files)]})
        assert_equal(door.ask(gzip.compress(body), headers), expected)
        head = {"name": "image", "datatype": "BYTES", "shape": [10]}
        content = pack_bytes(files)
        body, headers = with_header({"inputs": [{**head, "parameters": {"binary_data_size": len(content)}}]}, content)
        assert_equal(door.ask(gzip.compress(body), headers), expected)

    def test_forms_of_a_body(self, door, files, expected):
        document = {"inputs": [encoded(files)]}
        for fields in ({"data": json.dumps(document).encode()}, {"body": json.dumps(document)}, {"x": document}):
            (answer,) = door.batch([fields], [REST])
            assert_equal(answer, expected)

    def test_over_grpc_an_answer_is_json(self, door, files, expected):
        """TorchServe's gRPC has no headers, so nothing could say where the document ends."""
        body = json.dumps({"inputs": [encoded(files)], "parameters": {"binary_data_output": True}}).encode()
        (answer,) = door.batch([{"data": body}], [GRPC])
        assert answer.headers == {"content-type": "application/json", "ts_stream_next": "false"}
        assert all("data" in output for output in answer.document["outputs"])
        assert_equal(answer, expected)

    def test_beside_other_requests_in_a_batch(self, door, files, expected):
        body, headers = with_header({"inputs": [encoded(files[1:3])], "parameters": {"binary_data_output": True}})
        answers = door.batch(
            [{"body": files[0]}, {"body": body}, {"body": {"instances": [{"b64": b64(files[3])}]}}, {"body": b"x"}],
            [REST, headers, REST, REST],
        )
        assert answers[0].document["label"] == expected[0].label
        assert_equal(answers[1], expected[1:3])
        assert answers[2].document["predictions"][0]["label"] == expected[3].label
        assert answers[3].document["error"]["code"] == "not_an_image"
        assert [answer.status for answer in answers] == [200, 200, 200, 400]

    def test_it_is_counted(self, door, files):
        door.handler._metrics.drain()
        door.infer(encoded([files[0], b"text"]))
        door.infer(tensor("x", "BYTES", [1], ["a"]))
        counted = {(i.name, *(value for _, value in i.labels)): i.value for i in door.handler._metrics.drain()}
        assert counted["marquee_requests_total", "rest", "200"] == 1
        assert counted["marquee_requests_total", "rest", "400"] == 1
        assert counted["marquee_failures_total", "not_an_image"] == 1
        assert counted["marquee_failures_total", "bad_request"] == 1

    def test_the_description(self, door):
        (answer,) = door.batch([{}], [{**REST, "describe": "True"}])
        tensors = answer.document["tensors"]
        assert tensors["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert [output["name"] for output in tensors["outputs"]] == OUTPUTS
        assert tensors["outputs"][2] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 10]}

    def test_through_the_workers_own_protocol(self, door, files, expected):
        """ts.service.Service writes the header of a binary answer."""
        worker = Service("digits", "", {}, door.handler.handle, None, 8, metrics_cache=Metrics())
        worker.set_cl_socket(None)
        body, headers = with_header({"inputs": [encoded(files[:1])], "parameters": {"binary_data_output": True}})
        parts = [{"name": "body", "value": bytearray(body), "contentType": "application/octet-stream"}]
        named = [{"name": name.encode(), "value": value.encode()} for name, value in headers.items()]
        message = bytes(worker.predict([{"requestId": b"r0", "parameters": parts, "headers": named}]))
        place = message.index(HEADER_LENGTH.encode()) + len(HEADER_LENGTH)
        (size,) = struct.unpack_from("!i", message, place)
        length = message[place + 4 : place + 4 + size].decode()
        answer = message[message.index(b'{"model_name"') : -4]
        assert_equal(Answer(200, {HEADER_LENGTH: length}, answer), expected[:1])


class TestTriton:
    """What Triton's client writes, and what it reads."""

    @pytest.mark.parametrize("binary", [True, False])
    def test_there_and_back(self, door, pixels, expected, binary):
        given = InferInput("image", [10, 8, 8], "UINT8")
        given.set_data_from_numpy(pixels, binary_data=binary)
        outputs = [InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
        body, length = InferenceServerClient.generate_request_body([given], outputs=outputs, request_id="9")
        headers = REST if length is None else {**REST, OF_THE_CLIENT: str(length)}
        answer = door.ask(json.loads(body) if length is None else body, headers)
        length = answer.headers.get(HEADER_LENGTH)
        read = InferenceServerClient.parse_response_body(
            answer.body, header_length=None if length is None else int(length)
        )
        assert [str(x, "utf-8") if isinstance(x, bytes) else x for x in read.as_numpy("label")] == [
            one.label for one in expected
        ]
        assert np.allclose(read.as_numpy("probabilities"), [one.probabilities for one in expected], atol=1e-6)
        assert read.as_numpy("probabilities").shape == (10, 10)
        assert read.as_numpy("abstained").dtype == bool
        assert read.get_response()["id"] == "9"

    def test_a_bad_item_is_nan_to_it(self, door, files):
        given = InferInput("image", [2], "BYTES")
        given.set_data_from_numpy(np.array([files[0], b"text"], object))
        for binary in (True, False):
            outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("probability", "error")]
            body, length = InferenceServerClient.generate_request_body([given], outputs=outputs)
            answer = door.ask(body, {**REST, OF_THE_CLIENT: str(length)})
            read = InferenceServerClient.parse_response_body(
                answer.body, header_length=int(answer.headers[HEADER_LENGTH]) if binary else None
            )
            assert np.isnan(read.as_numpy("probability")).tolist() == [False, True]
            assert len(read.as_numpy("error")[1]) > 0


class TestOtherProtocols:
    """TensorFlow Serving's form by columns, and what stands beside instances."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda texts: {"inputs": {"image_bytes": [{"b64": text} for text in texts]}},
            lambda texts: {"inputs": {"image_bytes": texts}},
            lambda texts: {"inputs": [{"b64": text} for text in texts]},
            lambda texts: {"inputs": texts, "signature_name": "serving_default"},
            lambda texts: {"instances": [{"b64": text} for text in texts], "signature_name": "serving_default"},
            lambda texts: {"instances": [{"content": text} for text in texts], "parameters": {"maxPredictions": 5}},
            lambda texts: {"instances": [{"data": text} for text in texts]},
            lambda texts: {"instances": [{"image": {"b64": text}} for text in texts]},
        ],
        ids=range(8),
    )
    def test_lists(self, door, files, expected, write):
        document = write([b64(data) for data in files])
        for body in (document, json.dumps(document).encode()):
            answer = door.ask(body)
            assert [one["label"] for one in answer.document["predictions"]] == [one.label for one in expected]

    @pytest.mark.parametrize(
        "write", [lambda p: {"inputs": p}, lambda p: {"inputs": {"x": p}}, lambda p: {"instances": p}]
    )
    def test_pixels(self, door, pixels, expected, write):
        answer = door.ask(write(pixels.tolist()))
        assert [one["label"] for one in answer.document["predictions"]] == [one.label for one in expected]

    def test_one_image_is_a_list_of_one(self, door, files, expected):
        for inputs in (b64(files[0]), {"b64": b64(files[0])}, {"x": {"b64": b64(files[0])}}, {"x": b64(files[0])}):
            answer = door.ask({"inputs": inputs})
            assert [one["label"] for one in answer.document["predictions"]] == [expected[0].label]

    @pytest.mark.parametrize(
        ("inputs", "code", "message"),
        [
            ([], "bad_request", "inputs: expected at least one image"),
            ({}, "bad_request", "inputs: expected one tensor, which holds images, got none"),
            ({"x": ["a"], "y": ["b"]}, "bad_request", 'expected one tensor, which holds images, got "x", "y"'),
            (["a"] * 65, "too_many_instances", "65 items; at most 64"),
            (5, "bad_request", 'expected {"b64"'),
        ],
    )
    def test_columns_that_hold_no_images(self, door, inputs, code, message):
        document = door.ask({"inputs": inputs}).document
        error = document["error"] if "error" in document else document["predictions"][0]["error"]
        assert error["code"] == code
        assert message in error["message"]

    def test_a_member_of_that_name_beside_an_image(self, door, files, expected):
        """As before: other members are not looked at."""
        answer = door.ask({"b64": b64(files[0]), "inputs": [5], "content": "a note"})
        assert answer.document["label"] == expected[0].label

    def test_an_explanation_is_of_one(self, door, files):
        answer = door.ask({"inputs": [b64(files[0])] * 2}, {**REST, "explain": "True"})
        assert (answer.status, answer.document["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("version", ["version-1", "version-2"])
def test_bundles_of_earlier_versions(version, tmp_path):
    """Packaged by today's code, they answer the protocol, too, with what their golden answers say."""
    bundle = ROOT / "tests" / "data" / "bundles" / version
    door = Door(package(bundle, "kept", "1.0", tmp_path / "store"), tmp_path / "model")
    predictor = door.handler.predictor
    samples = read_golden(predictor.bundle, predictor.variant)
    outputs = door.infer_raw(raw([sample.data for sample in samples])).outputs()
    assert list(outputs) == OUTPUTS
    assert np.allclose(outputs["probabilities"], [sample.expected["probabilities"] for sample in samples], atol=1e-6)
    assert np.allclose(outputs["distance"], [sample.expected["distance"] for sample in samples], atol=1e-4)
