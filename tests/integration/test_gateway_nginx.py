"""The recipe for nginx, examples/gateway/nginx.conf: Debian's nginx in front of a real gateway, over TLS."""

import csv
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from marquee.gateway.access.certificates import make_certificates
from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore
from marquee.gateway.config import GatewayConfig
from marquee.serving.grpc_stubs import load_stubs
from tests.both_doors import BothDoors
from tests.conftest import ROOT

RECIPE = (ROOT / "examples" / "gateway" / "nginx.conf").read_text()
SECONDS = 60
# Not on the path of everybody.
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx; scripts/install_debian_packages installs it")


@pytest.fixture(scope="module")
def rows(run) -> list[dict[str, Any]]:
    """All test images with evaluation's answers."""
    with open(run / "predictions.csv", newline="") as stream:
        return [{**row, "data": Path(row["path"]).read_bytes()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def key(keys) -> str:
    return keys.add("shop", ("predict", "manage"))


@pytest.fixture(scope="module")
def gateway(store, keys) -> Iterator[BothDoors]:
    config = GatewayConfig(keys=keys.path)
    with BothDoors({"digits": store / "digits.mar"}, config=config, access=KeyAccess(keys.path)) as doors:
        yield doors


class Edge:
    """nginx as the recipe has it, on a free port, in a folder of its own."""

    def __init__(self, folder: Path, gateway: BothDoors, change: Callable[[str], str] = lambda text: text) -> None:
        self.folder = folder
        made = make_certificates(folder, ("localhost", "127.0.0.1"))
        assert (made.certificate.name, made.key.name) == ("server.pem", "server.key")
        self.authority = str(made.authority)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        ports = {"listen 8443": f"listen 127.0.0.1:{self.port}", ":8090": f":{gateway.http_port}"}
        text = RECIPE
        for old, new in {**ports, ":8091": f":{gateway.port}"}.items():
            assert re.search(rf"^ +[^#\n]*{old}\b", text, re.M)
            text = re.sub(rf"^( +[^#\n]*){old}\b", rf"\g<1>{new}", text, flags=re.M)
        (folder / "nginx.conf").write_text(change(text))
        self.url = f"https://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["Edge"]:
        """In the foreground; as root its workers would be somebody who may not read the test's folders."""
        user = "user root; " if os.getuid() == 0 else ""
        command = [NGINX, "-p", self.folder, "-c", "nginx.conf", "-e", "stderr", "-g", f"{user}daemon off;"]
        with open(self.folder / "log", "w") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                until = time.monotonic() + SECONDS
                while not self._listens():
                    text = (self.folder / "log").read_text()
                    assert process.poll() is None, text
                    assert time.monotonic() < until, text
                    time.sleep(0.05)
                yield self
            finally:
                process.terminate()
                assert process.wait(SECONDS) == 0

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> requests.Response:
        headers = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **options.pop("headers", {})}
        url = self.url + path
        return requests.request(method, url, headers=headers, verify=self.authority, timeout=SECONDS, **options)

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(Path(self.authority).read_bytes())


@pytest.fixture(scope="module")
def edge(gateway, tmp_path_factory) -> Iterator[Edge]:
    # The limits have a test of their own.
    def without_limits(text: str) -> str:
        return text.replace("rate=100r/s", "rate=100000r/s")

    with Edge(tmp_path_factory.mktemp("edge"), gateway, without_limits).running() as running:
        yield running


def assert_answers(label: str, probability: float, row: dict[str, Any]) -> None:
    assert label == row["predicted"]
    assert probability == pytest.approx(float(row[row["predicted"]]), abs=1e-4)


def test_rest_over_the_edge(edge, key, rows):
    """All test images, on connections that are kept."""

    def ask(row: dict[str, Any]) -> requests.Response:
        return edge.ask("POST", "/predictions/digits", key, data=row["data"])

    with ThreadPoolExecutor(8) as pool:
        for response, row in zip(pool.map(ask, rows), rows, strict=True):
            assert response.status_code == 200, response.text
            assert_answers(response.json()["label"], response.json()["probability"], row)


def test_open_inference_over_grpc_through_the_edge(edge, key, rows):
    client = triton.InferenceServerClient(
        f"127.0.0.1:{edge.port}", ssl=True, root_certificates=edge.authority, creds=edge.credentials()
    )
    with client:
        assert client.is_server_ready()
        for start in range(0, len(rows), 60):
            part = rows[start : start + 60]
            tensor = triton.InferInput("image", [len(part)], "BYTES")
            contents = np.empty(len(part), object)
            contents[:] = [row["data"] for row in part]
            tensor.set_data_from_numpy(contents)
            result = client.infer("digits", [tensor], headers={"authorization": f"Bearer {key}"})
            found = zip(result.as_numpy("label"), result.as_numpy("probability"), part, strict=True)
            for label, probability, row in found:
                assert_answers(label.decode(), probability, row)
        with pytest.raises(InferenceServerException, match="a key is needed"):
            client.infer("digits", [tensor])


def test_torchserves_grpc_through_the_edge(edge, key, rows):
    stubs = load_stubs()
    with grpc.secure_channel(f"127.0.0.1:{edge.port}", edge.credentials()) as channel:
        service = stubs.inference_grpc.InferenceAPIsServiceStub(channel)
        message = stubs.inference.PredictionsRequest(model_name="digits", input={"data": rows[0]["data"]})
        answer = service.Predictions(message, metadata=[("authorization", f"Bearer {key}")], timeout=SECONDS)
        assert f'"label": "{rows[0]["predicted"]}"'.encode() in answer.prediction


def test_what_the_gateway_says_passes_unchanged(edge, key):
    refused = edge.ask("POST", "/predictions/digits", data=b"x")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["code"] == "unauthenticated"
    absent = edge.ask("POST", "/v2/models/nobody/infer", key, json={"inputs": []})
    assert absent.status_code == 404
    assert "nobody" in absent.json()["error"]
    bad = edge.ask("POST", "/predictions/digits", key, data=b"no image")
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "not_an_image")
    assert edge.ask("GET", "/v2/health/ready").status_code == 200
    assert edge.ask("HEAD", "/ping").status_code == 200
    assert re.fullmatch("[0-9a-f]{32}", bad.headers["x-request-id"])


def test_management_and_metrics_stay_on_the_machine(edge, key, rows):
    """With a key that may do it: the gateway has no management here (501), the edge no such path."""
    for method, path in (("GET", "/models"), ("GET", "/models/digits"), ("GET", "/metrics"), ("DELETE", "/models/a/1")):
        assert edge.ask(method, path, key).status_code == 404
    assert edge.ask("PUT", "/models/digits/1.0/set-default", key).status_code == 404
    assert edge.ask("POST", "/models/digits/invoke", key, data=rows[0]["data"]).json()["label"] == rows[0]["predicted"]
    stubs = load_stubs()
    with grpc.secure_channel(f"127.0.0.1:{edge.port}", edge.credentials()) as channel:
        service = stubs.management_grpc.ManagementAPIsServiceStub(channel)
        message = stubs.management.ListModelsRequest()
        with pytest.raises(grpc.RpcError) as caught:
            service.ListModels(message, metadata=[("authorization", f"Bearer {key}")], timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_body_that_is_too_large(edge, key):
    answer = edge.ask("POST", "/predictions/digits", key, data=b"\0" * (32 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["error"] == "the request is too large"


def test_tls_1_3_and_both_versions_of_http(edge):
    context = ssl.create_default_context(cafile=edge.authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", edge.port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() == "TLSv1.3"
        assert secure.selected_alpn_protocol() == "h2"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", edge.port), SECONDS) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")
    assert requests.get(f"http://127.0.0.1:{edge.port}/ping", timeout=SECONDS).status_code == 400


def test_too_many_requests_of_one_client(gateway, key, tmp_path):
    def strict(text: str) -> str:
        return text.replace("rate=100r/s", "rate=1r/m").replace("burst=200", "burst=3")

    with Edge(tmp_path, gateway, strict).running() as edge:
        answers = [edge.ask("GET", "/ping", key) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["status"] == 429


def test_no_gateway(store, tmp_path):
    """As while it is started anew."""
    with BothDoors({"digits": store / "digits.mar"}) as doors:
        edge = Edge(tmp_path, doors)
    with edge.running():
        answer = edge.ask("POST", "/predictions/digits", data=b"x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "the gateway does not answer"
