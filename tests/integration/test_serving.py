"""A real TorchServe: what clients get, over REST and gRPC."""

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

import marquee
from marquee.handlers.core.bundle import bundle_digest
from marquee.serving.errors import OperationError
from marquee.serving.readiness import ready_workers
from marquee.serving.server import find
from tests.conftest import ROOT
from tests.forked import Forked


@pytest.fixture(scope="module")
def sample(run) -> dict:
    """A test image with evaluation's answer."""
    with open(run / "predictions.csv", newline="") as stream:
        row = next(csv.DictReader(stream))
    return {
        "path": Path(row["path"]),
        "data": Path(row["path"]).read_bytes(),
        "label": row["predicted"],
        "probability": float(row[row["predicted"]]),
    }


def post(served, data=None, name="digits", **options) -> requests.Response:
    headers = {**served.headers(), **options.pop("headers", {})}
    return requests.post(f"{served.url}/predictions/{name}", data=data, headers=headers, timeout=60, **options)


def assert_answers(body: dict, sample: dict) -> None:
    assert body["label"] == sample["label"]
    assert body["probability"] == pytest.approx(sample["probability"], abs=1e-4)


class TestStart:
    def test_golden_samples_were_replayed_over_both_protocols(self, served):
        assert served.started["checked"] == 2 * 16
        assert served.started["differences"] == []

    def test_status(self, served, script):
        status = json.loads(script("serve", "status", "--state", served.state, "--json").stdout)
        assert status["models"] == [{"name": "digits", "version": "1.0", "workers": ["READY"]}]
        assert "digits 1.0: workers READY" in script("serve", "status", "--state", served.state).stdout

    def test_a_second_start_is_refused(self, served, store, script):
        result = script("serve", "start", "digits", "--store", store, "--state", served.state, check=False)
        assert result.returncode == 1
        assert "already running" in result.stderr

    def test_taken_ports_are_named(self, served, store, script, tmp_path):
        port = served.server.addresses.base_port
        result = script("serve", "start", "digits", "--store", store, "--state", tmp_path, "--port", port, check=False)
        assert result.returncode == 1
        assert f"a TorchServe with pid {served.server.pid} listens on http://127.0.0.1:{port}" in result.stderr
        assert f"serve.py stop --state {served.state}" in result.stderr
        assert served.server.is_running()

    def test_an_absent_archive(self, script, tmp_path):
        result = script("serve", "start", "nothing", "--store", tmp_path, "--state", tmp_path, check=False)
        assert result.returncode == 1
        assert "nothing.mar: not found; make it with" in result.stderr

    @pytest.mark.parametrize("damage", [lambda data: data[:-1000], lambda data: b"", lambda data: b"text"])
    def test_a_damaged_archive_is_seen_before_the_server_starts(self, damage, store, script, tmp_path):
        (tmp_path / "x.mar").write_bytes(damage((store / "digits.mar").read_bytes()))
        result = script("serve", "start", "x", "--store", tmp_path, "--state", tmp_path / "s", check=False)
        assert result.returncode == 1
        assert "x.mar: " in result.stderr
        assert "package the run again" in result.stderr
        assert not (tmp_path / "s").exists()

    @pytest.mark.parametrize("arguments", [[], ["digits", "--port", "99999"], ["digits", "--port", "0"]])
    def test_usage(self, arguments, store, script, tmp_path):
        result = script("serve", "start", *arguments, "--store", store, "--state", tmp_path / "s", check=False)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")

    def test_a_polite_kill_leaves_nothing_running(self, store, tmp_path, free_port):
        command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "start", "digits", "--store", str(store)]
        state = tmp_path / "s"
        process = Forked([*command, "--state", str(state), "--port", str(free_port)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not (state / "server.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server = find(state)
        process.terminate()
        assert process.wait(60) == 1
        assert not server.is_running()
        assert not server.temporary.exists()

    def test_nothing_to_stop(self, script, tmp_path):
        assert script("serve", "stop", "--state", tmp_path, check=False).returncode == 1
        assert script("serve", "status", "--state", tmp_path, check=False).returncode == 1


class TestRest:
    def test_raw_body(self, served, sample, run):
        response = post(served, sample["data"])
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/json"
        body = response.json()
        assert_answers(body, sample)
        assert body["model"] == {
            "name": "digits",
            "version": "1.0",
            "bundle": bundle_digest(run / "bundle"),
            "variant": "fp32",
            "reason": "the bundle's only variant",
        }
        probabilities = [entry["probability"] for entry in body["ranking"]]
        assert len(probabilities) == 5
        assert probabilities == sorted(probabilities, reverse=True)

    @pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "text/plain", None])
    def test_any_content_type(self, served, sample, content_type):
        response = post(served, sample["data"], headers={"Content-Type": content_type} if content_type else {})
        assert_answers(response.json(), sample)

    @pytest.mark.parametrize("field", ["data", "body"])
    def test_multipart(self, served, sample, field):
        assert_answers(post(served, files={field: ("x.png", sample["data"])}).json(), sample)

    def test_instances(self, served, sample):
        good, bad = {"b64": base64.b64encode(sample["data"]).decode()}, {"b64": "AAAA"}
        response = post(served, json={"instances": [good, bad, good]})
        assert response.status_code == 200
        first, second, third = response.json()["predictions"]
        assert_answers(first, sample)
        assert_answers(third, sample)
        assert second["error"]["code"] == "not_an_image"

    @pytest.mark.parametrize("divisor", [1, 255])
    def test_image_data_of_the_article(self, served, sample, divisor):
        pixels = np.asarray(Image.open(sample["path"]))
        values = pixels.tolist() if divisor == 1 else (pixels / 255).tolist()
        assert_answers(post(served, json={"image_data": values}).json(), sample)
        colour = np.repeat(pixels[:, :, None], 3, axis=2).tolist()
        assert_answers(post(served, json={"image_data": colour}).json(), sample)

    def test_json_is_known_by_its_content(self, served, sample):
        pixels = np.asarray(Image.open(sample["path"])).tolist()
        response = post(served, json.dumps({"image_data": pixels}), headers={"Content-Type": "text/plain"})
        assert_answers(response.json(), sample)

    def test_the_older_predict_path(self, served, sample):
        response = requests.post(
            f"{served.url}/digits/predict", data=sample["data"], headers=served.headers(), timeout=60
        )
        assert_answers(response.json(), sample)

    @pytest.mark.parametrize(
        ("body", "headers", "status", "code"),
        [
            (b"", {}, 400, "empty"),
            (b"text", {}, 400, "not_an_image"),
            (b"{nonsense", {"Content-Type": "application/json"}, 400, "bad_request"),
            (b'{"image_data": [[300]]}', {"Content-Type": "application/json"}, 400, "bad_image_data"),
            (b'{"wrong": 1}', {"Content-Type": "application/json"}, 400, "bad_request"),
            (b"\x89PNG\r\n\x1a\n" + b"x" * 100, {}, 400, "not_an_image"),
            (b"x" * 25_000_000, {}, 413, "too_large"),
        ],
    )
    def test_bad_input(self, served, body, headers, status, code):
        response = post(served, body, headers=headers)
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/json"
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["message"]

    def test_truncated_and_huge_images(self, served, sample):
        stream = io.BytesIO()
        Image.effect_noise((300, 300), 50).save(stream, "JPEG")
        assert post(served, stream.getvalue()[:5000]).json()["error"]["code"] == "corrupt_image"
        stream = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(stream, "PNG")
        response = post(served, stream.getvalue())
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_pixels")

    def test_a_header_cannot_spoil_the_batch(self, served, sample):
        for header in ("describe", "explain"):
            assert post(served, sample["data"], headers={header: "True"}).status_code == 200
        assert_answers(post(served, sample["data"]).json(), sample)

    def test_describe(self, served, run):
        url = f"{served.management}/models/digits?customized=true"
        (described,) = requests.get(url, headers=served.headers("management"), timeout=60).json()
        metadata = described["customizedMetadata"]
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        assert metadata["labels"] == list("0123456789")
        assert metadata["model"]["bundle"] == bundle_digest(run / "bundle")


class TestBatch:
    def test_one_bad_item_fails_alone(self, served, sample):
        """Many clients at once, so that good and bad items share batches."""
        bodies = [sample["data"] if i % 4 else b"not an image" for i in range(64)]
        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(lambda body: post(served, body), bodies))
        assert [response.status_code for response in responses] == [200 if i % 4 else 400 for i in range(64)]
        for i, response in enumerate(responses):
            if i % 4:
                assert_answers(response.json(), sample)

    def test_answers_belong_to_their_requests(self, served, run):
        with open(run / "predictions.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))[::4]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda row: post(served, Path(row["path"]).read_bytes()).json(), rows))
        for row, answer in zip(rows, answers, strict=True):
            assert answer["label"] == row["predicted"]
            for entry in answer["ranking"]:
                assert entry["probability"] == pytest.approx(float(row[entry["label"]]), abs=1e-4)


class TestGrpc:
    def test_image(self, served, sample):
        answer = served.client.predict_grpc("digits", sample["data"])
        assert answer.error is None
        assert_answers(answer.body, sample)

    def test_json(self, served, sample):
        pixels = np.asarray(Image.open(sample["path"])).tolist()
        assert_answers(served.client.predict_grpc("digits", json.dumps({"image_data": pixels}).encode()).body, sample)

    def test_errors_are_in_the_body(self, served):
        answer = served.client.predict_grpc("digits", b"text")
        assert answer.body["error"]["code"] == "not_an_image"

    def test_absent_model(self, served, sample):
        assert served.client.predict_grpc("absent", sample["data"]).error


class TestPredictScript:
    def test_rest_and_grpc(self, served, sample, script):
        for extra in ([], ["--grpc"]):
            result = script("predict", "digits", sample["path"], "--state", served.state, "--json", *extra)
            assert_answers(json.loads(result.stdout), sample)
        assert (
            f"{sample['path']}: {sample['label']} "
            in script("predict", "digits", sample["path"], "--state", served.state).stdout
        )

    def test_one_bad_file_fails_alone(self, served, sample, script, tmp_path):
        (tmp_path / "bad.png").write_text("text")
        files = [tmp_path / "bad.png", tmp_path / "absent.png", sample["path"]]
        result = script("predict", "digits", *files, "--state", served.state, check=False)
        assert result.returncode == 1
        assert "bad.png: not_an_image" in result.stderr
        assert "absent.png: unreadable: No such file" in result.stderr
        assert str(sample["path"]) in result.stdout

    def test_json_file(self, served, sample, script, tmp_path):
        pixels = np.asarray(Image.open(sample["path"])).tolist()
        (tmp_path / "a.json").write_text(json.dumps({"image_data": pixels}))
        result = script("predict", "digits", tmp_path / "a.json", "--state", served.state, "--json")
        assert_answers(json.loads(result.stdout), sample)

    def test_a_proxy_in_the_environment_is_not_sent_the_token(self, served, sample, script):
        nowhere = "http://127.0.0.1:9"
        proxies = {"HTTP_PROXY": nowhere, "http_proxy": nowhere, "https_proxy": nowhere, "ALL_PROXY": nowhere}
        for extra in ([], ["--grpc"]):
            script("predict", "digits", sample["path"], "--state", served.state, *extra, **proxies)

    @pytest.mark.parametrize("has_settings", [False, True])
    def test_no_server(self, sample, script, tmp_path, has_settings):
        if has_settings:
            shutil.copyfile(ROOT / "config.properties", tmp_path / "config.properties")
        result = script("predict", "digits", sample["path"], check=False, cwd=tmp_path)
        assert result.returncode == 1
        assert "no server is running from .torchserve; start one:" in result.stderr
        assert "serve.py start NAME" in result.stderr

    def test_absent_model(self, served, sample, script):
        result = script("predict", "absent", sample["path"], "--state", served.state, check=False)
        assert result.returncode == 1
        assert "Model not found: absent" in result.stderr


class TestAccess:
    @pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
    def test_no_token_no_answer(self, served, sample, headers):
        url = f"{served.url}/predictions/digits"
        assert requests.post(url, data=sample["data"], headers=headers, timeout=60).status_code == 400
        assert requests.get(f"{served.management}/models", headers=headers, timeout=60).status_code == 400

    def test_a_client_needs_the_url_and_the_token_only(self, served, sample, tmp_path, monkeypatch):
        shutil.copyfile(sample["path"], tmp_path / "one.png")
        monkeypatch.chdir(tmp_path)
        token = served.headers()["Authorization"].removeprefix("Bearer ")
        client = marquee.Client(served.url, token=token)
        assert_answers(client.predict("digits", "one.png").body, sample)
        assert_answers(client.predict_grpc("digits", "one.png").body, sample)
        assert client.explain("digits", sample["data"]).status == 200
        for refused, token in (("the token that was given", "wrong"), ("a request without a token", None)):
            stranger = marquee.Client(served.url, token=token)
            for ask in (stranger.predict, stranger.predict_grpc):
                with pytest.raises(marquee.OperationError, match=f"the server refuses {refused}"):
                    ask("digits", "one.png")
        management = served.headers("management")["Authorization"].removeprefix("Bearer ")
        assert [entry["modelName"] for entry in marquee.Client(served.url, token=management).list_models()] == [
            "digits"
        ]

    def test_grpc_needs_the_token_too(self, served, sample):
        import grpc

        from marquee.serving.grpc_stubs import load_stubs

        stubs = load_stubs()
        with grpc.insecure_channel(served.server.addresses.grpc_inference) as channel:
            stub = stubs.inference_grpc.InferenceAPIsServiceStub(channel)
            request = stubs.inference.PredictionsRequest(model_name="digits", input={"data": sample["data"]})
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predictions(request, timeout=60)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED

    def test_the_key_file_is_private(self, served):
        assert stat.S_IMODE((served.state / "key_file.json").stat().st_mode) == 0o600

    def test_a_renewed_token_is_found(self, served, sample, script):
        before = served.headers()
        script("models", "token", "inference", "--state", served.state)
        assert served.headers() != before
        assert served.client.predict("digits", sample["data"]).status == 200
        assert served.client.predict_grpc("digits", sample["data"]).error is None

    def test_a_stale_token_is_renewed_by_the_client(self, served, sample):
        """What a client sees after token_expiration_min: the key file's token is refused."""
        key_file = served.state / "key_file.json"
        for ask in (served.client.predict, served.client.predict_grpc):
            keys = json.loads(key_file.read_text())
            keys["inference"]["key"] = "outdated"
            key_file.write_text(json.dumps(keys))
            assert ask("digits", sample["data"]).error is None
            assert served.headers() != {"Authorization": "Bearer outdated"}

    def test_everything_listens_on_loopback_only(self, served):
        ports = {
            connection.laddr.ip.removeprefix("::ffff:")
            for connection in psutil.Process(served.server.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert ports == {"127.0.0.1"}

    def test_models_cannot_be_registered(self, served, script):
        result = script("models", "register", "digits", "--state", served.state, check=False)
        assert result.returncode == 1
        assert "--enable-model-api" in result.stderr

    def test_workflows_cannot_fetch_code(self, served, store):
        archive = (store / "digits.mar").as_uri()
        response = requests.post(
            f"{served.management}/workflows",
            params={"url": archive, "workflow_name": "w"},
            headers=served.headers("management"),
            timeout=60,
        )
        assert response.status_code >= 400
        assert "does not match any allowed URL" in response.text


def test_metrics_are_prometheus(served, sample):
    post(served, sample["data"])
    text = requests.get(f"{served.server.addresses.metrics}/metrics", timeout=60).text
    assert re.search(r'ts_inference_requests_total\{model_name="digits".*\} [1-9]', text)


def test_no_python_measures_the_host(served):
    commands = [" ".join(child.cmdline()) for child in psutil.Process(served.server.pid).children(recursive=True)]
    assert not [command for command in commands if "metric_collector" in command]


def test_logs_are_quiet(served, sample):
    def lines() -> int:
        time.sleep(1)  # the logs are asynchronous
        return sum(len(path.read_text().splitlines()) for path in served.server.logs.iterdir())

    before = lines()
    for _ in range(50):
        post(served, sample["data"])
    assert lines() - before < 5


class TestManagement:
    def test_less_than_no_worker(self, served, script):
        """test_metrics.py scales up and down."""
        assert script("models", "scale", "digits", "--workers=-1", "--state", served.state, check=False).returncode == 2

    def test_absent_models(self, served, script):
        for arguments in (["scale", "absent", "--workers", "1"], ["default", "absent", "1.0"]):
            result = script("models", *arguments, "--state", served.state, check=False)
            assert result.returncode == 1
            assert "absent" in result.stderr
            assert "Traceback" not in result.stderr


def worker_pids(served) -> list[int]:
    (described,) = served.client.describe("digits")
    return [worker["pid"] for worker in described["workers"]]


def test_a_killed_worker_comes_back(served, sample):
    """Under light traffic, clients see answers or 5xx, and all is well again without help.

    One request may have no answer at all: TorchServe forgets what it holds while it waits for more of a batch, in our
    archives for 1 ms, when the worker dies right there (BatchAggregator.getRequest; docs/serving.md).
    """
    statuses, unanswered, stop = [], [], threading.Event()

    def traffic():
        while not stop.is_set():
            try:
                response = requests.post(
                    f"{served.url}/predictions/digits", data=sample["data"], headers=served.headers(), timeout=30
                )
                statuses.append(response.status_code)
            except requests.ReadTimeout as error:
                unanswered.append(error)
            except requests.RequestException as error:  # a lost connection
                statuses.append(repr(error))
            time.sleep(0.05)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        time.sleep(1)
        (pid,) = worker_pids(served)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 90
        while not (ready_workers(served.client, "digits") == 1 and worker_pids(served) != [pid]):
            assert time.monotonic() < deadline, "the worker did not come back"
            time.sleep(0.5)
        time.sleep(1)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert len(unanswered) <= 1
    assert set(statuses) <= {200, 500, 503, 507}
    assert statuses[0] == statuses[-1] == 200
    assert_answers(post(served, sample["data"]).json(), sample)


def assert_a_killed_front_end_is_cleaned_up(script, store, state, port):
    """kill -9 of the Java process: the state folder says so, and the next start leaves nothing of it behind."""
    before = find(state)
    workers = psutil.Process(before.pid).children(recursive=True)
    os.kill(before.pid, signal.SIGKILL)
    psutil.wait_procs(workers, 30)
    assert script("serve", "status", "--state", state, check=False).returncode == 1
    assert before.temporary.exists()
    script("serve", "start", "digits", "--store", store, "--state", state, "--port", port)
    assert not before.temporary.exists()
    assert not [worker for worker in workers if worker.is_running()]


def assert_a_server_without_its_folder_is_found(script, store, state, port):
    """The state folder is deleted while the server runs: a start names the process, and a stop ends it."""
    before = find(state)
    shutil.rmtree(state)
    again = script("serve", "start", "digits", "--store", store, "--state", state, "--port", port, check=False)
    assert again.returncode == 1
    assert f"a TorchServe with pid {before.pid} listens on" in again.stderr
    stopped = script("serve", "stop", "--state", state)
    assert stopped.stdout == f"stopped pid {before.pid}, of which {state} had no record\n"
    assert not psutil.pid_exists(before.pid)
    assert not before.temporary.exists()


@pytest.mark.slow
def test_the_model_api_on_request(store, script, tmp_path, free_port, sample, run):
    state = tmp_path / "server"
    script("package", run, "--name", "digits", "--version", "2.0", "--store", tmp_path)
    script(
        "serve", "start", "digits", "--store", tmp_path, "--state", state, "--port", free_port, "--enable-model-api"
    )  # fmt: skip
    try:
        script("package", run, "--name", "second", "--store", tmp_path)
        script("models", "register", "second", "--state", state)
        listed = script("models", "list", "--state", state).stdout
        assert "digits 2.0: workers READY" in listed
        assert "second 1.0: workers READY" in listed
        script("models", "default", "second", "1.0", "--state", state)
        result = script("predict", "second", sample["path"], "--version", "1.0", "--state", state, "--json")
        assert_answers(json.loads(result.stdout), sample)
        script("models", "unregister", "second", "--state", state)
        assert "second" not in script("models", "list", "--state", state).stdout
        assert_a_killed_front_end_is_cleaned_up(script, tmp_path, state, free_port)
        assert_a_server_without_its_folder_is_found(script, tmp_path, state, free_port)
    finally:
        script("serve", "stop", "--state", state, check=False)
    with pytest.raises(OperationError):
        from marquee.serving.server import connect

        connect(state, tmp_path / "absent.properties")
