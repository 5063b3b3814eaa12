"""Request bodies in, response bodies out."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import Repeated, Request, encode_answer, encode_error, parse
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.errors import ImageError
from marquee.handlers.inputs.image.reader import ImageReader
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import Prediction

SPEC = ImageSpec(channels=1, resize=8, crop=8)
MODEL = {"name": "m", "version": "1.0", "bundle": "sha256:0", "variant": "fp32"}


def png(level: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8), level).save(stream, "PNG")
    return stream.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(request: Request, spec: ImageSpec = SPEC) -> list:
    """Each item of a request as the engine gets it, or its error."""
    batch = ImageReader(spec).collate(request.items)
    return batch.with_errors(list(batch.inputs["pixels"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"body": png()},
        {"data": bytearray(png())},
        {"photo": png()},
        {"data": png(), "other": b"x"},
        {"body": {"b64": b64(png())}},
        {"body": json.dumps({"b64": b64(png())}).encode()},
        {"body": json.dumps({"b64": b64(png())})},
        {"data": {"image_data": [[9] * 8] * 8}},
        {"data": b'  {"image_data": [[9]]}'},
    ],
)
def test_one_image(fields):
    request = parse(fields, ImageReader(SPEC))
    assert not request.is_list
    assert np.array_equal(pixels(request)[0], load(png(), SPEC))


def test_instances_keep_their_order_and_their_errors():
    instances = [{"b64": b64(png(1))}, {"b64": b64(b"text")}, {"image_data": [[3]]}, {"nonsense": 1}, 7]
    request = parse({"body": {"instances": instances}}, ImageReader(SPEC))
    assert request.is_list
    codes = [item.code if isinstance(item, InputError) else int(item[0, 0, 0]) for item in pixels(request)]
    assert codes == [1, "not_an_image", 3, "bad_request", "bad_request"]


@pytest.mark.parametrize(
    ("fields", "code", "status"),
    [
        ({}, "empty", 400),
        ({"body": b""}, "empty", 400),
        ({"a": b"1", "b": b"2"}, "bad_request", 400),
        ({"body": b"hello"}, "not_an_image", 400),
        ({"body": "h\u00e9llo"}, "not_an_image", 400),
        ({"body": b"{not json"}, "bad_request", 400),
        ({"body": b"[" * 100_000}, "bad_request", 400),
        ({"body": {}}, "bad_request", 400),
        ({"body": None}, "bad_request", 400),
        ({"body": 5}, "bad_request", 400),
        ({"body": []}, "bad_request", 400),
        ({"body": {"instances": []}}, "bad_request", 400),
        ({"body": {"instances": "text"}}, "bad_request", 400),
        ({"body": {"instances": [1] * (ImageReader.max_items + 1)}}, "too_many_instances", 413),
        ({"body": {"b64": "***"}}, "bad_request", 400),
        ({"body": "\ud800"}, "not_an_image", 400),
        ({"body": {"b64": "\ud800"}}, "bad_request", 400),
        ({"body": {"image_data": [["x" * 1000, "y"]]}}, "bad_image_data", 400),
        ({"body": {"b64": 5}}, "bad_request", 400),
        ({"body": {"b64": ""}}, "empty", 400),
        ({"body": {"image_data": "x"}}, "bad_image_data", 400),
    ],
)
def test_nonsense_is_one_error(fields, code, status):
    (item,) = pixels(parse(fields, ImageReader(SPEC)))
    assert isinstance(item, InputError)
    assert (item.code, item.status) == (code, status)


def test_the_images_of_one_request_share_a_budget_of_pixels():
    """64 small files that each decode to the limit would hold a worker for minutes."""
    spec = ImageSpec(channels=1, resize=8, crop=8, max_pixels=150)
    request = parse({"body": {"instances": [{"b64": b64(png())}] * 3 + [{"image_data": [[2]]}]}}, ImageReader(spec))
    kinds = [item.code if isinstance(item, InputError) else "image" for item in pixels(request, spec)]
    assert kinds == ["image", "image", "too_many_pixels", "image"]
    assert "together" in request.items[2].message


def test_the_budget_counts_what_files_say_and_not_what_is_decoded():
    """A scaled decode, or a file that breaks halfway, leaves no room for more."""
    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "JPEG")  # 256 x 256, decoded at 32 x 32
    large = {"b64": b64(stream.getvalue())}
    broken = {"b64": b64(stream.getvalue()[:-200])}
    spec = replace(SPEC, decode="scaled", max_pixels=3 * 256 * 256)
    request = parse({"body": {"instances": [large, broken, large, large]}}, ImageReader(spec))
    kinds = [item.code if isinstance(item, InputError) else "image" for item in pixels(request, spec)]
    assert kinds == ["image", "corrupt_image", "image", "too_many_pixels"]


def prediction() -> Prediction:
    return Prediction(ranking=((1, "dög", 0.75), (0, "cat", 0.25)), probabilities=np.array([0.25, 0.75]), distance=1.5)


def test_answer_to_one_image():
    status, body = encode_answer([prediction()], False, MODEL)
    assert status == 200
    assert json.loads(body) == {
        "label": "dög",
        "probability": 0.75,
        "ranking": [
            {"label": "dög", "index": 1, "probability": 0.75},
            {"label": "cat", "index": 0, "probability": 0.25},
        ],
        "distance": 1.5,
        "abstained": False,
        "model": MODEL,
    }


def test_an_answer_that_should_not_be_used_says_why():
    _, body = encode_answer([replace(prediction(), abstained="unfamiliar")], False, MODEL)
    answer = json.loads(body)
    assert answer["abstained"] is True
    assert answer["reason"] == "unfamiliar"
    assert answer["label"] == "dög"  # still there for those who want it


def test_several_labels():
    _, body = encode_answer([replace(prediction(), labels=("dög", "cat"))], False, MODEL)
    assert json.loads(body)["labels"] == ["dög", "cat"]
    assert "labels" not in json.loads(encode_answer([prediction()], False, MODEL)[1])


def test_answer_to_a_list():
    error = ImageError("not_an_image", "no")
    status, body = encode_answer([prediction(), error], True, MODEL)
    first, second = json.loads(body)["predictions"]
    assert status == 200
    assert first["label"] == "dög"
    assert second == {"error": {"code": "not_an_image", "message": "no"}}
    assert encode_answer([error, error], True, MODEL)[0] == 400


def test_error():
    status, body = encode_error(ImageError("too_many_pixels", "too many"))
    assert (status, json.loads(body)) == (413, {"error": {"code": "too_many_pixels", "message": "too many"}})


def test_an_answer_that_no_server_would_send_is_refused_by_its_size():
    answer = Prediction(ranking=((0, "x" * 1_000, 0.9),), probabilities=np.array([0.9]))
    status, body = encode_answer([answer] * 1_000, True, MODEL)
    assert status == 200
    assert len(json.loads(body)["predictions"]) == 1_000
    status, body = encode_answer([answer] * 5_000, True, MODEL)
    assert status == 413
    error = json.loads(body)["error"]
    assert error["code"] == "too_large"
    assert "the answer to 5000 items has 1" in error["message"]
    assert "send fewer items" in error["message"]


def test_a_long_list_that_failed_as_a_whole_is_one_error():
    """TorchServe cuts an answer that is an error and long."""
    bad = [InputError("bad_request", f"row {row}") for row in range(65)]
    status, body = encode_answer(bad, True, MODEL)
    assert status == 400
    assert json.loads(body) == {"error": {"code": "bad_request", "message": "none of 65 items can be used; row 0"}}
    status, body = encode_answer(bad[:64], True, MODEL)
    assert status == 400
    assert len(json.loads(body)["predictions"]) == 64


@pytest.mark.parametrize(
    "fields",
    [
        {"data": png(), "body": png()},
        {"data": {"image_data": [[9]]}, "body": png()},
        {"data": Repeated(2)},
        {"photo": Repeated(3)},
        {"body": {"b64": b64(png()), "image_data": [[9]]}},
        {"body": {"data": b64(png()), "body": b64(png())}},
        {"body": {"b64": b64(png()), "data": b64(png(8) * 2)}},
        {"body": {"first": {"b64": b64(png())}, "second": {"b64": b64(png())}}},
    ],
)
def test_two_images_in_the_place_of_one_are_refused(fields):
    """Each of them used to be answered for the one image, and the other was dropped without a word."""
    (item,) = pixels(parse(fields, ImageReader(SPEC)))
    assert (item.code, item.status) == ("bad_request", 400)
    assert "instances" in item.message


@pytest.mark.parametrize(
    "fields",
    [
        {"data": png(), "body": b""},
        {"data": b"", "body": png()},
        {"data": png(), "caption": Repeated(2)},
        {"body": {"b64": b64(png()), "image": "cat.png", "data": 7}},
    ],
)
def test_what_is_no_second_image_is_not_looked_at(fields):
    assert np.array_equal(pixels(parse(fields, ImageReader(SPEC)))[0], load(png(), SPEC))


def test_a_form_with_long_names_is_not_repeated():
    """9 MB of names made an answer that is longer than the server's largest, which ended the worker."""
    names = [f"{i}{'n' * 900}" for i in range(10_000)]
    request = parse(dict.fromkeys(names, b"1"), ImageReader(SPEC))
    _, body = encode_answer(request.items, request.is_list, MODEL)
    assert len(body) < 1_000
    assert '"0nnn' in json.loads(body)["error"]["message"]
    assert "and 9995 more" in json.loads(body)["error"]["message"]


def test_no_message_is_long():
    status, body = encode_error(InputError("bad_request", "x" * 10_000_000))
    assert status == 400
    assert len(body) < 2_000


def test_a_form_without_fields_says_how_to_send_a_file():
    """JSON that is sent by ``curl -d`` alone gets here; TorchServe finds no field in what it takes for a form."""
    (item,) = pixels(parse({}, ImageReader(SPEC)))
    assert "curl -T FILE" in item.message
    assert "Content-Type" in item.message
