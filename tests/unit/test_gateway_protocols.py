"""What each protocol documents, sent as bare bodies, and the answers and errors that its clients read."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from marquee.gateway.config import Routes
from marquee.gateway.in_process import FixedReadiness
from tests.gateway_server import HttpGateway
from tests.table_forms import FORMS, features, flowers, jsonable, make_models

PROBLEM = {"type", "title", "status", "detail", "code"}


@pytest.fixture(scope="module")
def tables(once, script) -> Path:
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def two_versions(once, run, script) -> Path:
    """A store with two versions of the digits."""

    def fill(folder: Path) -> None:
        for version in ("1.0", "2.0"):
            script("package", run, "--name", "digits", "--version", version, "--store", folder)

    return once("two-versions", fill)


@pytest.fixture(scope="module")
def server(two_versions, tables):
    archives: dict[str, Any] = {"digits": [two_versions / "digits-1.0.mar", two_versions / "digits-2.0.mar"]}
    archives["flowers"] = tables / "store" / "flowers.mar"
    with HttpGateway(archives) as running:
        yield running


@pytest.fixture(scope="module")
def ask(server):
    session = requests.Session()

    def send(method: str, path: str, **options: Any) -> requests.Response:
        return session.request(method, server.url + path, timeout=60, **options)

    return send


@pytest.fixture(scope="module")
def images(digits) -> list[bytes]:
    return [path.read_bytes() for path in sorted((digits / "test" / "3").iterdir())[:3]]


@pytest.fixture(scope="module")
def texts(images) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


def assert_refused(response: requests.Response, status: int, words: str = "") -> dict[str, Any]:
    """As protocols want it whose errors are texts."""
    assert response.status_code == status, response.text
    document = response.json()
    assert isinstance(document["error"], str)
    assert words in document["error"]
    assert document.keys() >= PROBLEM
    assert document["status"] == status
    assert document["detail"] == document["error"]
    return document


class TestProbes:
    def test_live_and_ready(self, ask):
        assert ask("GET", "/v2/health/live").json() == {"live": True}
        assert ask("GET", "/v2/health/ready").json() == {"ready": True}
        assert ask("GET", "/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
        assert ask("GET", "/v2/models/digits/versions/2.0/ready").status_code == 200
        for path in ("/ping", "/ready", "/vertex/health"):
            assert ask("GET", path).json() == {"status": "Healthy"}
        assert ask("GET", "/").json() == {"status": "alive"}

    def test_head(self, ask):
        for path in ("/", "/ping", "/v2/health/ready", "/v2/models/digits/ready", "/docs", "/openapi.json"):
            got, head = ask("GET", path), ask("HEAD", path)
            assert head.status_code == 200
            assert head.content == b""
            assert head.headers["content-length"] == got.headers["content-length"]

    def test_not_ready(self, server, ask, monkeypatch):
        monkeypatch.setattr(server.gateway, "readiness", FixedReadiness(server.gateway.readiness.versions))
        server.gateway.readiness.draining = True
        for path in ("/ping", "/ready", "/vertex/health", "/v2/health/ready"):
            response = ask("GET", path)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
        assert ask("GET", "/v2/health/ready").json() == {"ready": False}
        assert ask("GET", "/v2/health/live").status_code == 200
        assert ask("GET", "/").status_code == 200

    def test_no_model_is_not_ready(self):
        with HttpGateway({}) as empty:
            assert requests.get(f"{empty.url}/v2/health/ready", timeout=60).status_code == 503
            assert requests.post(f"{empty.url}/invocations", data=b"x", timeout=60).status_code == 404


class TestOpenInferenceProtocol:
    def test_server(self, ask):
        document = ask("GET", "/v2").json()
        assert document["name"] == "marquee"
        assert "binary_tensor_data" in document["extensions"]

    def test_metadata(self, ask):
        document = ask("GET", "/v2/models/digits").json()
        assert document["versions"] == ["1.0", "2.0"]
        assert document["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert ask("GET", "/v2/models/digits/versions/2.0").json() == document
        assert [tensor["name"] for tensor in ask("GET", "/v2/models/flowers").json()["inputs"]] == [
            "length",
            "width",
            "colour",
        ]
        assert_refused(ask("GET", "/v2/models/nothing"), 404, "unknown model 'nothing'")
        assert_refused(ask("GET", "/v2/models/digits/versions/9"), 404, "no version '9'")

    def test_config(self, ask):
        config = ask("GET", "/v2/models/digits/config").json()
        assert config["name"] == "digits"
        assert config["input"] == [{"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}]
        assert ask("GET", "/v2/models/digits/versions/1.0/config").json() == config

    def test_index(self, ask):
        index = ask("POST", "/v2/repository/index", json={"ready": True}).json()
        assert [(entry["name"], entry["version"]) for entry in index] == [
            ("digits", "1.0"),
            ("digits", "2.0"),
            ("flowers", "1.0"),
        ]
        assert ask("POST", "/v2/repository/index").json() == index
        assert_refused(ask("POST", "/v2/repository/index", data=b"{"), 400)
        assert_refused(ask("POST", "/v2/repository/index", json={"ready": 1}), 400)
        assert_refused(ask("POST", "/v2/repository/index", json=[]), 400)

    def test_images_as_base64(self, ask, texts):
        tensor = {"name": "image", "shape": [3], "datatype": "BYTES", "data": texts}
        tensor["parameters"] = {"content_type": "base64"}
        response = ask("POST", "/v2/models/digits/infer", json={"id": "7", "inputs": [tensor]})
        document = response.json()
        assert response.headers["content-type"] == "application/json"
        assert (document["id"], document["model_name"], document["model_version"]) == ("7", "digits", "1.0")
        outputs = {output["name"]: output for output in document["outputs"]}
        assert outputs["label"]["data"] == ["3", "3", "3"]
        assert outputs["label"]["shape"] == [3]

    def test_binary(self, ask, images):
        content = b"".join(len(image).to_bytes(4, "little") + image for image in images)
        head = {
            "inputs": [
                {
                    "name": "image",
                    "shape": [3],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(content)},
                }
            ],
            "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
        }
        text = json.dumps(head).encode()
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        response = ask("POST", "/v2/models/digits/versions/2.0/infer", data=text + content, headers=headers)
        assert response.status_code == 200, response.text
        length = int(response.headers["inference-header-content-length"])
        document = json.loads(response.content[:length])
        assert document["model_version"] == "2.0"
        assert response.content[length:] == b"\x01\x00\x00\x003" * 3

    def test_errors(self, ask, texts):
        for body in (b"", b"{", b"[]", b"null", b'{"inputs": []}', b'{"inputs": [{"name": "image"}]}', b"\xff\xd8"):
            assert_refused(ask("POST", "/v2/models/digits/infer", data=body), 400)
        ours = json.dumps({"instances": [{"b64": texts[0]}]})
        assert_refused(ask("POST", "/v2/models/digits/infer", data=ours), 400, "inputs")
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["bm90"]}
        document = {"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]}
        assert_refused(ask("POST", "/v2/models/digits/infer", json=document), 400, "not an image")
        assert_refused(ask("POST", "/v2/models/nothing/infer", json=document), 404, "unknown model")
        assert_refused(ask("POST", "/v2/models/digits/versions/3/infer", json=document), 404, "no version '3'")

    def test_explanations_are_not_part_of_it(self, ask):
        assert ask("POST", "/v2/models/digits/explain", json={}).status_code == 404


class TestV1:
    """KServe's first protocol, and TF Serving."""

    def test_models(self, ask):
        assert ask("GET", "/v1/models").json() == {"models": ["digits", "flowers"]}

    def test_state(self, ask):
        document = ask("GET", "/v1/models/digits").json()
        assert (document["name"], document["ready"]) == ("digits", True)
        states = document["model_version_status"]
        assert [(state["version"], state["state"]) for state in states] == [("1.0", "AVAILABLE"), ("2.0", "AVAILABLE")]
        assert states[0]["status"] == {"error_code": "OK", "error_message": ""}
        one = ask("GET", "/v1/models/digits/versions/2.0").json()
        assert [state["version"] for state in one["model_version_status"]] == ["2.0"]
        assert_refused(ask("GET", "/v1/models/nothing"), 404)
        assert_refused(ask("GET", "/v1/models/digits/versions/9"), 404)

    def test_metadata(self, ask):
        document = ask("GET", "/v1/models/flowers/metadata").json()
        assert document["model_spec"] == {"name": "flowers", "signature_name": "", "version": "1.0"}
        inputs = document["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
        assert (inputs["length"]["dtype"], inputs["colour"]["dtype"]) == ("DT_DOUBLE", "DT_STRING")
        assert inputs["length"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]

    def test_documented_bodies(self, ask, texts):
        """KServe's sample for TorchServe, and TF Serving's row and column formats."""
        bodies = {
            "b64": {"instances": [{"b64": text} for text in texts]},
            "signature": {"signature_name": "serving_default", "instances": [{"b64": text} for text in texts]},
            "named": {"instances": [{"image_bytes": {"b64": text}} for text in texts]},
            "KServe for TorchServe": {"instances": [{"data": text} for text in texts]},
            "columns": {"inputs": {"image_bytes": [{"b64": text} for text in texts]}},
            "one column": {"inputs": [{"b64": text} for text in texts]},
        }
        for name, body in bodies.items():
            for path in ("/v1/models/digits:predict", "/v1/models/digits/versions/2.0:predict", "/vertex/predict"):
                response = ask("POST", path, json=body)
                assert response.status_code == 200, (name, response.text)
                document = response.json()
                assert [answer["label"] for answer in document["predictions"]] == ["3", "3", "3"], name
                assert document["model"]["version"] == ("2.0" if "versions" in path else "1.0")

    def test_rows(self, ask):
        rows = [jsonable(row) for row in features(flowers()[:3])]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        bodies = ({"instances": rows}, {"instances": [list(row.values()) for row in rows]}, {"inputs": columns})
        answers = [ask("POST", "/v1/models/flowers:predict", json=body).json()["predictions"] for body in bodies]
        assert answers[0] == answers[1] == answers[2]
        assert len(answers[0]) == 3

    def test_an_answer_is_always_a_list(self, ask, texts):
        document = ask("POST", "/v1/models/digits:predict", json={"b64": texts[0]}).json()
        assert [answer["label"] for answer in document["predictions"]] == ["3"]

    def test_a_bad_image_beside_a_good_one(self, ask, texts):
        for path in ("/v1/models/digits:predict", "/vertex/predict"):
            response = ask("POST", path, json={"instances": [{"b64": "bm90"}, {"b64": texts[0]}]})
            assert response.status_code == 200
            bad, good = response.json()["predictions"]
            assert bad["error"]["code"] == "not_an_image"
            assert good["label"] == "3"

    def test_errors(self, ask, texts):
        for path in ("/v1/models/digits:predict", "/vertex/predict"):
            document = assert_refused(ask("POST", path, json={"instances": [{"b64": "bm90"}]}), 400, "not an image")
            assert document["code"] == "not_an_image"
            assert document["predictions"][0]["error"]["code"] == "not_an_image"
            assert_refused(ask("POST", path, json={"instances": []}), 400, "instances")
            assert_refused(ask("POST", path, json={"instances": [{"b64": texts[0]}] * 65}), 413, "at most 64")
            assert_refused(ask("POST", path, data=b"{", headers={"content-type": "application/json"}), 400, "JSON")
        assert_refused(ask("POST", "/v1/models/nothing:predict", json={}), 404, "unknown model")

    def test_explanations(self, ask, texts):
        body = {"instances": [{"b64": texts[0]}], "method": "occlusion"}
        for path in ("/v1/models/digits:explain", "/v1/models/digits/versions/2.0:explain"):
            response = ask("POST", path, json=body)
            assert response.status_code == 200, response.text
            (answer,) = response.json()["predictions"]
            assert answer["label"] == "3"
            assert answer["explanation"]["method"] == "occlusion"
        two = {"instances": [{"b64": texts[0]}, {"b64": texts[1]}]}
        assert_refused(ask("POST", "/v1/models/digits:explain", json=two), 400)
        row = [jsonable(row) for row in features(flowers()[:1])]
        (answer,) = ask("POST", "/v1/models/flowers:explain", json={"instances": row}).json()["predictions"]
        assert "explanation" in answer


class TestVertex:
    def test_routes_of_the_platform(self, two_versions, images):
        """Vertex AI names paths with colons; and it may name one that another protocol has."""
        variables = {
            "AIP_PREDICT_ROUTE": "/v1/endpoints/7/deployedModels/8:predict",
            "AIP_HEALTH_ROUTE": "/ping",
            "AIP_HTTP_PORT": "8080",
        }
        routes = Routes.from_environment(variables)
        with HttpGateway({"digits": two_versions / "digits.mar"}, routes=routes) as running:
            body = {"instances": [{"b64": base64.b64encode(images[0]).decode()}], "parameters": {"confidence": 0.5}}
            response = requests.post(running.url + routes.predict, json=body, timeout=60)
            assert [answer["label"] for answer in response.json()["predictions"]] == ["3"]
            assert requests.get(running.url + routes.health, timeout=60).json() == {"status": "Healthy"}

    def test_raw_predictions(self, ask, images):
        response = ask("POST", "/vertex/predict", data=images[0], headers={"Content-Type": "image/png"})
        assert response.json()["label"] == "3"
        assert_refused(ask("POST", "/vertex/predict", data=b"not", headers={"Content-Type": "image/png"}), 400)


class TestSageMaker:
    @pytest.mark.parametrize("content_type", ["application/x-image", "image/png", "application/octet-stream", None])
    def test_images(self, ask, images, content_type):
        headers = {"X-Amzn-SageMaker-Custom-Attributes": "a=b", "Accept": "application/json"}
        headers |= {"Content-Type": content_type} if content_type else {}
        assert ask("POST", "/invocations", data=images[0], headers=headers).json()["label"] == "3"

    def test_one_of_several_models(self, ask):
        rows = b"length,width,colour\n2.0,5.0,r\n"
        for path in ("/models/flowers/invoke", "/invocations?model_name=flowers", "/endpoints/flowers/invocations"):
            response = ask("POST", path, data=rows, headers={"Content-Type": "text/csv"})
            assert response.status_code == 200, response.text
            assert len(response.json()["predictions"]) == 1
        assert ask("POST", "/models/nothing/invoke", data=rows).status_code == 404

    def test_the_model_that_is_named_at_the_start(self, two_versions, tables):
        archives = {"digits": two_versions / "digits.mar", "flowers": tables / "store" / "flowers.mar"}
        with HttpGateway(archives, model="flowers") as running:
            for path in ("/invocations", "/score", "/vertex/predict"):
                response = requests.post(running.url + path, json={"instances": [[2.0, 5.0, "r"]]}, timeout=60)
                assert response.json()["model"]["name"] == "flowers"


class TestAzure:
    def test_score(self, ask, texts, images):
        assert ask("POST", "/score", json={"b64": texts[0]}).json()["label"] == "3"
        assert ask("POST", "/score", data=images[0]).json()["label"] == "3"
        response = ask("POST", "/score", data=b"not")
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "not_an_image"


class TestTorchServe:
    """As its clients know it."""

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
    def test_every_method_predicts(self, ask, images, method):
        response = ask(method, "/predictions/digits", data=images[0])
        assert response.status_code == 200
        assert response.json()["label"] == "3"

    @pytest.mark.parametrize(
        ("path", "version"),
        [
            ("/predictions/digits", "1.0"),
            ("/predictions/digits/", "1.0"),
            ("/predictions/digits/2.0", "2.0"),
            ("/predictions/%64igits/2%2E0", "2.0"),
            ("/digits/predict", "1.0"),
            ("/digits/2.0/predict", "2.0"),
        ],
    )
    def test_paths(self, ask, images, path, version):
        document = ask("POST", path, data=images[0]).json()
        assert (document["label"], document["model"]["version"]) == ("3", version)

    def test_bodies(self, ask, images, texts):
        bodies: dict[str, dict[str, Any]] = {
            "form": {"files": {"data": images[0]}},
            "form with body": {"files": {"body": ("x.png", images[0], "image/png")}},
            "JSON": {"json": {"b64": texts[0]}},
            "JSON of another server": {"json": {"data": texts[0]}},
            "base64": {"data": texts[0], "headers": {"Content-Type": "text/plain"}},
            "base64 in JSON": {"json": texts[0]},
            "packed": {"data": gzip.compress(images[0]), "headers": {"Content-Encoding": "gzip"}},
            "octets": {"data": images[0], "headers": {"Content-Type": "application/octet-stream"}},
            "a chunk at a time": {"data": iter([images[0][:50], images[0][50:]])},
        }
        for name, options in bodies.items():
            response = ask("POST", "/predictions/digits", **options)
            assert response.status_code == 200, (name, response.text)
            assert response.json()["label"] == "3", name

    @pytest.mark.parametrize("form", [form for form in FORMS if "commas" not in form])
    def test_forms_of_a_table(self, ask, form):
        content_type, encode = FORMS[form]
        body = encode(features(flowers()[:4]))
        response = ask("POST", "/predictions/flowers", data=body, headers={"Content-Type": content_type})
        assert response.status_code == 200, response.text
        assert len(response.json()["predictions"]) == 4

    def test_instances(self, ask, texts):
        response = ask("POST", "/predictions/digits", json={"instances": [{"b64": texts[0]}, {"b64": "bm90"}]})
        good, bad = response.json()["predictions"]
        assert good["label"] == "3"
        assert bad["error"]["code"] == "not_an_image"

    def test_explanations(self, ask, images, texts):
        for path in ("/explanations/digits", "/explanations/digits/2.0"):
            assert "explanation" in ask("POST", path, data=images[0]).json()
        fields = {"data": ("x.png", images[0]), "explain": (None, "true"), "method": (None, "occlusion")}
        document = ask("POST", "/predictions/digits", files=fields).json()
        assert document["explanation"]["method"] == "occlusion"
        assert "explanation" in ask("POST", "/predictions/digits", json={"b64": texts[0], "explain": True}).json()

    def test_errors_of_the_handler(self, ask):
        response = ask("POST", "/predictions/digits", data=b"not an image")
        assert response.status_code == 400
        assert response.json().keys() == {"error"}
        assert response.json()["error"]["code"] == "not_an_image"
        assert ask("POST", "/predictions/digits").json()["error"]["code"] == "empty"

    def test_errors_of_the_gateway(self, ask, images):
        for path, words in (("/predictions/nothing", "unknown model"), ("/predictions/digits/9", "no version '9'")):
            response = ask("POST", path, data=images[0])
            assert response.status_code == 404
            document = response.json()
            assert document.keys() >= PROBLEM
            assert document["error"]["code"] == "not_found"
            assert words in document["error"]["message"]
            assert document["message"] == document["error"]["message"]

    def test_descriptions(self, ask):
        whole = ask("OPTIONS", "/").json()
        assert whole["openapi"].startswith("3.1")
        assert ask("GET", "/api-description").json() == whole
        paths = ask("OPTIONS", "/predictions/digits").json()["paths"]
        assert "/predictions/{name}" in paths
        assert "/v2" not in paths
        assert ask("OPTIONS", "/predictions/nothing").status_code == 404

    def test_management_is_the_hosts_own(self, ask):
        for method, path in (
            ("GET", "/models"),
            ("POST", "/models?url=x.mar"),
            ("GET", "/models/digits"),
            ("PUT", "/models/digits/1.0?min_worker=1"),
            ("DELETE", "/models/digits/1.0"),
            ("PUT", "/models/digits/1.0/set-default"),
        ):
            assert ask(method, path).status_code == 501

    def test_metrics(self, ask):
        response = ask("GET", "/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "marquee_gateway_answered_total" in response.text
