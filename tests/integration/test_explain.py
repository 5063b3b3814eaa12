"""Explanations by a real TorchServe, over REST and gRPC, and beside predictions."""

import base64
import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image

from marquee.handlers.explain.request import METHODS


@pytest.fixture(scope="module")
def rows(run) -> list[dict]:
    """Test images with evaluation's answers."""
    with open(run / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))[::12]
    return [{**row, "data": Path(row["path"]).read_bytes()} for row in rows]


def ask(served, kind="explanations", **options) -> requests.Response:
    return requests.post(f"{served.url}/{kind}/digits", headers=served.headers(), timeout=60, **options)


def assert_answers(body: dict, row: dict) -> None:
    assert body["label"] == row["predicted"]
    assert body["probability"] == pytest.approx(float(row[row["predicted"]]), abs=1e-4)


def assert_explains(body: dict, method: str, label: str) -> None:
    explanation = body["explanation"]
    assert (explanation["method"], explanation["label"]) == (method, label)
    picture = Image.open(io.BytesIO(base64.b64decode(explanation["heatmap"])))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert picture.size == (explanation["width"], explanation["height"]) == (224, 224)
    grey = Image.open(io.BytesIO(base64.b64decode(explanation["map"])))
    assert (grey.size, grey.mode) == ((32, 32), "L")


def test_one_image(served, rows):
    row = rows[0]
    response = ask(served, data=row["data"])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert_answers(response.json(), row)
    assert_explains(response.json(), "gradcam", row["predicted"])


@pytest.mark.parametrize("method", METHODS)
def test_methods_and_labels(served, rows, method):
    row = rows[1]
    other = "3" if row["predicted"] != "3" else "5"
    form = ask(served, files={"data": row["data"], "method": (None, method), "label": (None, other)})
    assert_explains(form.json(), method, other)
    document = {"b64": base64.b64encode(row["data"]).decode(), "method": method, "label": other}
    own = ask(served, json={**document, "label": row["predicted"]}).json()
    assert_explains(own, method, row["predicted"])
    assert own["explanation"]["map"] != form.json()["explanation"]["map"]
    assert_explains(ask(served, "predictions", json={**document, "explain": True}).json(), method, other)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"data": b"text"}, "not_an_image"),
        ({"json": {"instances": [{"image_data": [[2]]}]}}, "bad_request"),
        ({"json": {"image_data": [[2]], "method": "lime"}}, "bad_request"),
        ({"json": {"image_data": [[2]], "label": "cat"}}, "bad_request"),
        ({"json": {"image_data": [[2]], "method": "occlusion", "window": 2, "stride": 4}}, "bad_request"),
    ],
)
def test_bad_requests(served, options, code):
    response = ask(served, **options)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


def test_grpc_by_an_input(served, rows):
    answer = served.client.explain("digits", rows[2]["data"], "occlusion", grpc=True)
    assert answer.error is None
    assert_answers(answer.body, rows[2])
    assert_explains(answer.body, "occlusion", rows[2]["predicted"])


def test_predictions_beside_explanations_get_their_usual_answers(served, rows):
    """Many clients of both at once, over both protocols, so that they share batches."""
    in_pieces = []

    def one(i: int) -> tuple[bool, dict, dict]:
        row, explained = rows[i % len(rows)], i % 4 == 1
        if i % 8 == 1:
            return explained, served.client.explain("digits", row["data"], "occlusion", grpc=True).body, row
        if i % 8 == 2:
            return explained, served.client.predict_grpc("digits", row["data"]).body, row
        response = ask(served, "explanations" if explained else "predictions", data=row["data"])
        assert response.status_code in ((200, 503) if explained else (200,))
        if "chunked" in response.headers.get("Transfer-Encoding", ""):
            in_pieces.append(explained)
        return explained, response.json(), row

    made = 0
    for _ in range(5):
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(one, range(96)))
        for explained, body, row in answers:
            if explained and "error" in body:
                assert body["error"]["code"] in ("busy", "too_slow")
                continue
            assert_answers(body, row)
            assert ("explanation" in body) == explained
            made += explained
        if in_pieces and made >= 12:
            break
    assert made >= 12, "explanations are answered under load, too"
    assert in_pieces, "none of them ever shared a batch with predictions"
    assert all(in_pieces), "predictions come in one piece"
    assert_answers(ask(served, "predictions", data=rows[0]["data"]).json(), rows[0])


class TestCommand:
    def test_the_picture_is_written(self, served, rows, script, tmp_path):
        out = tmp_path / "reason.png"
        result = script("predict", "digits", rows[0]["path"], "--explain", out, "--state", served.state)
        assert f"{out}: gradcam for {rows[0]['predicted']}" in result.stdout
        with Image.open(out) as picture:
            assert picture.size == (224, 224)
        assert [path.name for path in tmp_path.iterdir()] == ["reason.png"]
        arguments = ("digits", rows[0]["path"], "--explain", out, "--method", "occlusion", "--json")
        told = json.loads(script("predict", *arguments, "--state", served.state).stdout)
        assert told["explanation"]["method"] == "occlusion"
        assert told["explanation"]["file"] == str(out)
        assert "heatmap" not in told["explanation"]

    def test_usage(self, served, rows, script, tmp_path):
        out = tmp_path / "reason.png"
        state = ("--state", served.state)
        for arguments, message in [
            ((rows[0]["path"], rows[1]["path"], "--explain", out), "2 are named"),
            ((rows[0]["path"], "--explain", tmp_path / "reason.jpg"), "ends with .png"),
            ((rows[0]["path"], "--method", "occlusion"), "need --explain"),
        ]:
            result = script("predict", "digits", *arguments, *state, check=False)
            assert result.returncode == 2
            assert message in result.stderr
        result = script("predict", "digits", rows[0]["path"], "--explain", out, "--label", "cat", *state, check=False)
        assert result.returncode == 1
        assert "no label 'cat'" in result.stderr
        assert not out.exists()
