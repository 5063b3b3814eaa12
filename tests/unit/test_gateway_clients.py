"""Real clients at the doors over HTTP: Triton's, KServe's, boto3, requests, curl; and evaluation's answers over all."""

import base64
import csv
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import numpy as np
import pytest
import requests
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore
from tests.gateway_server import HttpGateway
from tests.table_forms import as_csv, features, flowers, houses, jsonable, make_models

TOLERANCE = 1e-6
NOT_AN_IMAGE = b"this is a text"


@pytest.fixture(scope="module")
def tables(once, script) -> Path:
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def server(store, tables):
    archives = {"digits": store / "digits.mar"}
    archives |= {name: tables / "store" / f"{name}.mar" for name in ("houses", "flowers")}
    with HttpGateway(archives) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def expected(run) -> list[dict[str, Any]]:
    """Evaluation's answers for the test images."""
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            "content": Path(row["path"]).read_bytes(),
            "path": Path(row["path"]),
            "label": row["predicted"],
            "probability": float(row[row["predicted"]]),
        }
        for row in rows
    ]


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bytes_input(contents: list[bytes], is_binary: bool, shape: list[int] | None = None) -> triton.InferInput:
    """As Triton's client sends images: raw, or as base64 in JSON, which a parameter has to say."""
    tensor = triton.InferInput("image", shape or [len(contents)], "BYTES")
    values = contents if is_binary else [encode(content).encode() for content in contents]
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_).reshape(shape or [-1]), binary_data=is_binary)
    if not is_binary:
        tensor._parameters["content_type"] = "base64"
    return tensor


def infer(client: triton.InferenceServerClient, content: bytes, is_binary: bool) -> dict[str, Any]:
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "probability")]
    result = client.infer("digits", [bytes_input([content], is_binary)], outputs=outputs)
    label = result.as_numpy("label")[0]
    return {
        "label": label.decode() if isinstance(label, bytes) else label,
        "probability": result.as_numpy("probability")[0],
    }


def posted(url: str, **options: Any) -> dict[str, Any]:
    response = requests.post(url, timeout=60, **options)
    assert response.status_code == 200, response.text
    document = response.json()
    return document["predictions"][0] if "predictions" in document else document


def runtime(server: HttpGateway) -> Any:
    """boto3's client of SageMaker's endpoints, at the gateway."""
    keys = {"aws_access_key_id": "nobody", "aws_secret_access_key": "nothing"}
    return boto3.client("sagemaker-runtime", region_name="eu-west-1", endpoint_url=server.url, **keys)


class TestEvaluationsAnswers:
    """Every fifth test image, over every way; tests/integration/test_gateway_table.py asks for all of them."""

    @pytest.fixture
    def ways(self, server, client):
        invoke = runtime(server).invoke_endpoint
        image = {"Content-Type": "image/png"}
        return {
            "TorchServe": lambda content: posted(f"{server.url}/predictions/digits", data=content),
            "V1": lambda content: posted(
                f"{server.url}/v1/models/digits:predict", json={"instances": [{"b64": encode(content)}]}
            ),
            "V2 JSON": lambda content: infer(client, content, is_binary=False),
            "V2 binary": lambda content: infer(client, content, is_binary=True),
            "Vertex": lambda content: posted(
                f"{server.url}/vertex/predict", json={"instances": [{"b64": encode(content)}], "parameters": {}}
            ),
            "SageMaker": lambda content: posted(f"{server.url}/invocations", data=content, headers=image),
            "boto3": lambda content: json.load(
                invoke(EndpointName="digits", Body=content, ContentType="application/x-image")["Body"]
            ),
            "Azure": lambda content: posted(f"{server.url}/score", data=content, headers=image),
        }

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "way", ["TorchServe", "V1", "V2 JSON", "V2 binary", "Vertex", "SageMaker", "boto3", "Azure"]
    )
    def test_answers(self, ways, expected, way):
        rows = expected[::5]
        assert {row["label"] for row in rows} == set("0123456789")
        answers = [ways[way](row["content"]) for row in rows]
        assert [answer["label"] for answer in answers] == [row["label"] for row in rows]
        differences = [abs(a["probability"] - row["probability"]) for a, row in zip(answers, rows, strict=True)]
        assert max(differences) < TOLERANCE


class TestTriton:
    def test_health_and_metadata(self, client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1.0")
        assert not client.is_model_ready("digits", "9.9")
        assert not client.is_model_ready("nothing")
        assert client.get_server_metadata()["name"] == "marquee"
        metadata = client.get_model_metadata("digits")
        assert metadata["versions"] == ["1.0"]
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert {"label", "probability", "error", "answer"} <= {output["name"] for output in metadata["outputs"]}
        assert client.get_model_metadata("digits", "1.0") == metadata
        assert client.get_model_config("digits")["input"][0]["data_type"] == "TYPE_STRING"
        index = client.get_model_repository_index()
        assert ("digits", "1.0", "READY") in [(entry["name"], entry["version"], entry["state"]) for entry in index]

    def test_metadata_of_a_table(self, client):
        names = [tensor["name"] for tensor in client.get_model_metadata("houses")["inputs"]]
        assert names == ["floor area", "rooms", "town", "built", "garden", "energy"]

    @pytest.mark.parametrize("is_binary", [True, False])
    def test_a_bad_image_beside_good_ones(self, client, expected, is_binary):
        contents = [expected[0]["content"], NOT_AN_IMAGE, expected[1]["content"]]
        outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "error", "answer")]
        result = client.infer("digits", [bytes_input(contents, is_binary)], outputs=outputs)
        labels, errors, answers = ([_text(v) for v in result.as_numpy(n)] for n in ("label", "error", "answer"))
        assert labels == [expected[0]["label"], "", expected[1]["label"]]
        assert errors[0] == errors[2] == ""
        assert "not an image" in errors[1]
        assert json.loads(answers[1])["error"]["code"] == "not_an_image"
        assert json.loads(answers[2])["label"] == expected[1]["label"]

    @pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
    def test_pixels(self, client, expected, datatype):
        images = [np.asarray(Image.open(row["path"]).convert("RGB")) for row in expected[:3]]
        pixels = np.stack(images)
        if datatype == "FP32":
            pixels = (pixels / np.float32(255)).astype(np.float32)
        tensor = triton.InferInput("image", list(pixels.shape), datatype)
        tensor.set_data_from_numpy(pixels)
        result = client.infer("digits", [tensor])
        assert [_text(v) for v in result.as_numpy("label")] == [row["label"] for row in expected[:3]]

    def test_an_id_is_echoed_only_where_it_is_given(self, client, expected):
        tensor = bytes_input([expected[0]["content"]], True)
        assert client.infer("digits", [tensor], request_id="mine").get_response()["id"] == "mine"
        assert "id" not in client.infer("digits", [tensor]).get_response()

    def test_a_version(self, client, expected):
        tensor = bytes_input([expected[0]["content"]], True)
        assert client.infer("digits", [tensor], model_version="1.0").get_response()["model_version"] == "1.0"
        with pytest.raises(InferenceServerException, match=r"no version '9.9'") as caught:
            client.infer("digits", [tensor], model_version="9.9")
        assert caught.value.status() == "404"

    @pytest.mark.parametrize("compression", ["gzip", "deflate"])
    def test_a_compressed_request(self, client, expected, compression):
        tensor = bytes_input([expected[0]["content"]], True)
        result = client.infer("digits", [tensor], request_compression_algorithm=compression)
        assert _text(result.as_numpy("label")[0]) == expected[0]["label"]

    def test_errors_are_texts(self, client, expected):
        good = bytes_input([expected[0]["content"]], True)
        wrong_type = triton.InferInput("image", [1, 4, 4, 3], "BOOL")
        wrong_type.set_data_from_numpy(np.zeros((1, 4, 4, 3), bool))
        other = triton.InferInput("other", [1], "BYTES")
        other.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
        for name, tensors, status, words in (
            ("nothing", [good], "404", "unknown model 'nothing'"),
            ("digits", [bytes_input([NOT_AN_IMAGE], True)], "400", "not an image"),
            ("digits", [wrong_type], "400", ""),
            ("houses", [other], "400", ""),
        ):
            with pytest.raises(InferenceServerException) as caught:
                client.infer(name, tensors)
            assert caught.value.status() == status
            assert words in caught.value.message()
            assert str(caught.value)  # an object in place of a text made this fail

    def test_rows_of_a_table(self, server, client):
        rows = features(houses()[:4])
        tensors = []
        for name in rows[0]:
            cells = [jsonable(row)[name] for row in rows]
            if isinstance(cells[0], bool):
                values, datatype = np.array(cells), "BOOL"
            elif isinstance(cells[0], str):
                values, datatype = np.array([cell.encode() for cell in cells], dtype=np.object_), "BYTES"
            else:
                values, datatype = np.array([np.nan if cell is None else cell for cell in cells], np.float64), "FP64"
            tensor = triton.InferInput(name, [len(rows)], datatype)
            tensor.set_data_from_numpy(values)
            tensors.append(tensor)
        body = [jsonable(row) for row in rows]
        answered = requests.post(f"{server.url}/predictions/houses", json={"instances": body}, timeout=60).json()
        expected = [answer["value"] for answer in answered["predictions"]]
        assert client.infer("houses", tensors).as_numpy("prediction").tolist() == pytest.approx(expected)


class TestBoto3:
    def test_a_table_in_csv(self, server):
        rows = features(flowers()[:5])
        answer = runtime(server).invoke_endpoint(EndpointName="flowers", Body=as_csv(rows), ContentType="text/csv")
        assert answer["ContentType"] == "application/json"
        assert len(json.load(answer["Body"])["predictions"]) == 5

    def test_an_endpoint_whose_name_is_no_model(self, server, expected):
        row = expected[0]
        answer = runtime(server).invoke_endpoint(EndpointName="production", Body=row["content"])
        assert json.load(answer["Body"])["label"] == row["label"]

    def test_an_error(self, server):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            runtime(server).invoke_endpoint(EndpointName="digits", Body=NOT_AN_IMAGE)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400

    def test_a_key(self, store, tmp_path, expected):
        """boto3 signs with a header of its own, which a handler of its events replaces."""
        keys = tmp_path / "keys.json"
        key = KeyStore(keys).add("aws")
        with HttpGateway({"digits": store / "digits.mar"}, access=KeyAccess(keys)) as server:
            client = runtime(server)
            with pytest.raises(botocore.exceptions.ClientError) as caught:
                client.invoke_endpoint(EndpointName="digits", Body=expected[0]["content"])
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 401

            def authorize(request: Any, **_: Any) -> None:
                request.headers["Authorization"] = f"Bearer {key}"

            client.meta.events.register("before-send.sagemaker-runtime.InvokeEndpoint", authorize)
            answer = client.invoke_endpoint(EndpointName="digits", Body=expected[0]["content"])
            assert json.load(answer["Body"])["label"] == expected[0]["label"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
class TestCurl:
    def curl(self, *arguments: object) -> tuple[int, Any]:
        command = ["curl", "--silent", "--noproxy", "*", "--write-out", "\n%{http_code}", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, timeout=60, check=True)
        body, _, status = result.stdout.rpartition(b"\n")
        return int(status), json.loads(body)

    @pytest.mark.parametrize("way", ["--data-binary", "-T", "-F", "typed"])
    def test_files(self, server, expected, way):
        row = expected[0]
        options = {
            "--data-binary": ["--data-binary", f"@{row['path']}"],
            "-T": ["-T", row["path"]],
            "-F": ["-F", f"data=@{row['path']}"],
            "typed": ["-H", "Content-Type: image/png", "--data-binary", f"@{row['path']}"],
        }[way]
        status, answer = self.curl(*options, f"{server.url}/predictions/digits")
        assert (status, answer["label"]) == (200, row["label"])

    def test_a_large_file_that_waits_for_a_hundred(self, server, tmp_path):
        """curl sends what is above a megabyte only when it is asked to."""
        Image.effect_noise((1_500, 1_500), 80).save(tmp_path / "noise.png")
        assert (tmp_path / "noise.png").stat().st_size > 1 << 20
        status, answer = self.curl("--data-binary", f"@{tmp_path / 'noise.png'}", f"{server.url}/predictions/digits")
        assert status == 200
        assert "label" in answer

    @pytest.mark.parametrize("name", ["b64", "data"])
    def test_json_without_a_type(self, server, expected, name):
        body = json.dumps({name: encode(expected[0]["content"])})
        status, answer = self.curl("-d", body, f"{server.url}/predictions/digits")
        assert (status, answer["label"]) == (200, expected[0]["label"])

    def test_base64_in_a_form(self, server, expected):
        """The only form that TorchServe's decoder reads."""
        field = f"data={encode(expected[0]['content'])}"
        status, answer = self.curl("--data-urlencode", field, f"{server.url}/predictions/digits")
        assert (status, answer["label"]) == (200, expected[0]["label"])

    def test_csv_without_a_type(self, server, tmp_path):
        (tmp_path / "rows.csv").write_bytes(as_csv(features(flowers()[:3])))
        status, answer = self.curl("--data-binary", f"@{tmp_path / 'rows.csv'}", f"{server.url}/predictions/flowers")
        assert status == 200
        assert len(answer["predictions"]) == 3

    def test_head(self, server):
        result = subprocess.run(
            ["curl", "--silent", "--noproxy", "*", "-I", f"{server.url}/v2/health/ready"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert result.stdout.startswith("HTTP/1.1 200")


@pytest.mark.slow
def test_kserve(server, kserve, expected):
    """Its client in a process of its own, beside libraries that this project does not have."""
    program = Path(__file__).parent / "kserve_client.py"
    command = [kserve, program, server.url, expected[0]["path"]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    label = expected[0]["label"]
    assert said["v1"] == {"live": True, "ready": True, "label": label, "absent": 404}
    assert said["v2"] == {"live": True, "ready": True, "model": True, "label": label, "binary": label, "absent": False}
    assert "not an image" in said["error"]


def test_many_clients_at_once(server, expected):
    def ask(row: dict[str, Any]) -> str:
        label: str = posted(f"{server.url}/predictions/digits", data=row["content"])["label"]
        return label

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, expected[:64])) == [row["label"] for row in expected[:64]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
