"""What clients really send to a real TorchServe, over REST and gRPC."""

import base64
import csv
import gzip
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from PIL import Image

import marquee
from marquee.serving.answers import DEFAULT_LARGEST
from marquee.serving.grpc_stubs import load_stubs

LARGEST = 33_554_432
"""max_request_size of config.properties."""


@pytest.fixture(scope="module")
def rows(run) -> list[dict]:
    """Test images with evaluation's answers."""
    with open(run / "predictions.csv", newline="") as stream:
        return [{**row, "data": Path(row["path"]).read_bytes()} for row in list(csv.DictReader(stream))[::9]]


@pytest.fixture(scope="module")
def one(rows) -> dict:
    return rows[0]


@pytest.fixture(scope="module", autouse=True)
def same_workers(served) -> Iterator[None]:
    """Nothing that a client sends may end a worker."""
    before = worker_pids(served)
    yield
    assert worker_pids(served) == before


def worker_pids(served) -> list[int]:
    (described,) = served.client.describe("digits")
    return [worker["pid"] for worker in described["workers"]]


def post(served, path="predictions/digits", headers=None, **options) -> requests.Response:
    headers = {**served.headers(), **(headers or {})}
    return requests.post(f"{served.url}/{path}", headers=headers, timeout=60, **options)


def assert_answers(body: dict, row: dict) -> None:
    assert body["label"] == row["predicted"]
    assert body["probability"] == pytest.approx(float(row[row["predicted"]]), abs=1e-4)


def assert_refused(response: requests.Response, status: int, code: str, *hints: str) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    for hint in hints:
        assert hint in error["message"]


class TestText:
    """Base64 as it is written, and the JSON of other servers' clients; tests/unit/test_base64.py has all of them."""

    def test_a_body_of_base64(self, served, one):
        text = base64.b64encode(one["data"]).decode()
        for written in (text, f"data:image/png;base64,{text}", base64.encodebytes(one["data"]).decode()):
            for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/octet-stream"}, {}):
                assert_answers(post(served, data=written.encode(), headers=headers).json(), one)
            assert_answers(post(served, json=written).json(), one)
            assert_answers(served.client.predict_grpc("digits", written.encode()).body, one)

    def test_a_form_of_base64(self, served, one):
        text = base64.b64encode(one["data"]).decode()
        assert_answers(post(served, data={"data": text}).json(), one)
        if "+" in text:
            as_it_is = post(served, data=f"data={text}", headers={"Content-Type": "application/x-www-form-urlencoded"})
            assert_refused(as_it_is, 400, "bad_request", "percent-encoded")

    def test_members_of_other_servers_clients(self, served, one):
        text = base64.urlsafe_b64encode(one["data"]).decode()
        for instance in ({"data": text}, {"image_bytes": {"b64": text}}):
            response = post(served, json={"signature_name": "serving_default", "instances": [instance]})
            assert_answers(response.json()["predictions"][0], one)
            assert_answers(post(served, json=instance).json(), one)
            assert_answers(served.client.predict_grpc("digits", json.dumps(instance).encode()).body, one)

    def test_what_python_shows_of_bytes(self, served, one):
        shown = str(base64.b64encode(one["data"]))
        assert_refused(post(served, json={"b64": shown}), 400, "bad_request", "b64encode(data).decode()")

    def test_white_as_javascript_writes_it(self, served, one):
        pixels = np.asarray(Image.open(one["path"]))
        ones = (pixels > 127).astype(int).tolist()
        assert_refused(post(served, json={"image_data": ones}), 400, "bad_image_data", '"range": 1')
        bright = post(served, json={"image_data": ones, "range": 1}).json()
        floats = post(served, json={"image_data": (pixels > 127).astype(float).tolist()}).json()
        dark = post(served, json={"image_data": ones, "range": 255}).json()
        assert bright["label"] == floats["label"]
        assert bright["probability"] == pytest.approx(floats["probability"], abs=1e-4)
        assert dark["ranking"] != bright["ranking"]


class TestPacked:
    @pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}, {"Content-Type": "image/png"}])
    def test_gzip(self, served, one, headers):
        assert_answers(post(served, data=gzip.compress(one["data"]), headers=headers).json(), one)

    def test_gzip_of_json_over_both_protocols_and_for_an_explanation(self, served, one):
        document = {"b64": base64.b64encode(one["data"]).decode()}
        packed = gzip.compress(json.dumps(document).encode())
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert_answers(post(served, data=packed, headers=headers).json(), one)
        assert_answers(served.client.predict_grpc("digits", packed).body, one)
        packed = gzip.compress(json.dumps({**document, "method": "occlusion"}).encode())
        explained = post(served, "explanations/digits", data=packed, headers=headers).json()
        assert explained["explanation"]["method"] == "occlusion"

    def test_what_it_unpacks_to_is_bounded(self, served):
        assert_refused(post(served, data=gzip.compress(b"\0" * 40_000_000)), 413, "too_large", "unpacks to more than")
        assert_refused(post(served, data=gzip.compress(b"\0" * 1_000)[:-6]), 400, "bad_request", "gzip")


class TestForms:
    @pytest.mark.parametrize("names", [("data", "body"), ("data", "data"), ("photo", "photo"), ("body", "x", "body")])
    def test_two_images_are_refused(self, served, rows, names):
        parts = [(name, ("x.png", row["data"])) for name, row in zip(names, rows, strict=False)]
        for path in ("predictions/digits", "explanations/digits"):
            assert_refused(post(served, path, files=parts), 400, "bad_request", "instances")

    def test_in_a_grpc_call_too(self, served, one):
        answer = served.client.predict_grpc("digits", one["data"], inputs={"body": one["data"]})
        assert answer.body["error"]["code"] == "bad_request"

    def test_a_form_beside_the_image_is_left_alone(self, served, one):
        parts = [("data", ("x.png", one["data"])), ("tag", (None, "a")), ("tag", (None, "b")), ("body", (None, ""))]
        assert_answers(post(served, files=parts).json(), one)

    def test_9_mb_of_names(self, served, one):
        names = "&".join(f"{i}{'n' * 900}=1" for i in range(10_000))
        response = post(served, data=names, headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert_refused(response, 400, "bad_request", "and 9995 more")
        assert len(response.content) < 1_000
        assert_answers(post(served, data=one["data"]).json(), one)

    def test_a_file_that_is_called_a_form(self, served, one):
        """What ``curl --data-binary @photo.jpg`` sends never reaches the model: docs/serving.md and README say so."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        refused = []
        for seed in range(10):
            stream = io.BytesIO()
            noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(stream, "JPEG")
            response = post(served, data=stream.getvalue(), headers=form)
            refused.append((response.status_code, response.json().get("type")))
            assert post(served, data=stream.getvalue(), headers={"Content-Type": "image/jpeg"}).status_code == 200
        assert refused.count((500, "ErrorDataDecoderException")) >= 8
        document = json.dumps({"b64": base64.b64encode(one["data"]).decode().rstrip("=")})
        assert_refused(post(served, data=document, headers=form), 400, "empty", "curl -T FILE", "Content-Type")


def test_a_stream_is_one_answer_beside_all_others(served, rows):
    """One call of StreamPredictions used to end the worker, or to leave it READY and silent for ever."""
    stubs = load_stubs()
    metadata = [("authorization", served.headers()["Authorization"]), ("protocol", "gRPC")]

    def stream(channel: grpc.Channel, data: bytes) -> list[dict]:
        stub = stubs.inference_grpc.InferenceAPIsServiceStub(channel)
        request = stubs.inference.PredictionsRequest(model_name="digits", input={"data": data})
        return [json.loads(part.prediction) for part in stub.StreamPredictions(request, metadata=metadata, timeout=60)]

    with grpc.insecure_channel(served.server.addresses.grpc_inference) as channel, ThreadPoolExecutor(12) as pool:

        def ask(i: int) -> dict:
            row = rows[i % len(rows)]
            kind = ("rest", "grpc", "stream", "rest", "grpc", "explain")[i % 6]
            if kind == "stream":
                (body,) = stream(channel, row["data"])
                return body
            if kind == "explain":
                return served.client.explain("digits", row["data"], "occlusion", grpc=i % 12 == 5).body
            if kind == "grpc":
                return served.client.predict_grpc("digits", row["data"]).body
            return served.client.predict("digits", row["data"]).body

        answers = list(pool.map(ask, range(240)))
        (bad,) = stream(channel, b"text")
    for i, body in enumerate(answers):
        if i % 6 == 5 and "error" in body:
            assert body["error"]["code"] in ("busy", "too_slow")
        else:
            assert_answers(body, rows[i % len(rows)])
    assert bad["error"]["code"] == "not_an_image"


class TestRefusalsOfTheFrontEnd:
    @pytest.mark.parametrize(("name", "version"), [("absent", None), ("absent", "1.0"), ("digits", "7.7")])
    def test_an_unknown_model_or_version_is_404_both_ways(self, served, one, name, version):
        rest = served.client.predict(name, one["data"], version=version)
        over_grpc = served.client.predict_grpc(name, one["data"], version)
        assert rest == over_grpc
        assert rest.status == 404
        assert rest.body["error"]["message"].startswith(
            ("Model not found: absent", "Model version: 7.7 does not exist")
        )

    def test_a_larger_request_is_413_in_bytes_both_ways(self, served):
        data = b"x" * (LARGEST + 1)
        for answer in (served.client.predict("digits", data), served.client.predict_grpc("digits", data)):
            assert answer.status == 413
            assert answer.body["error"]["code"] == "too_large"
            assert "has 335544" in answer.body["error"]["message"]
            assert f"at most {LARGEST} " in answer.body["error"]["message"]

    def test_a_client_that_knows_no_settings_says_what_it_sent(self, served):
        stranger = marquee.Client(served.url, token=served.headers()["Authorization"].removeprefix("Bearer "))
        data = b"x" * (LARGEST + 1)
        for answer in (stranger.predict("digits", data), stranger.predict_grpc("digits", data)):
            assert (answer.status, answer.body["error"]["code"]) == (413, "too_large")
            assert "has 335544" in answer.body["error"]["message"]
            assert "max_request_size" in answer.body["error"]["message"]
        assert DEFAULT_LARGEST < LARGEST

    def test_an_image_that_is_too_large_is_the_models_own_answer(self, served):
        data = b"\0" * 25_000_000
        for answer in (served.client.predict("digits", data), served.client.predict_grpc("digits", data)):
            assert answer.error == "too_large: the image has 25000000 bytes; at most 20000000 are accepted"
