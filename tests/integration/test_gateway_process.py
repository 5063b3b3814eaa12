"""marquee serve with a gateway: its start, its end, what keeps it alive; by the commands, with a real TorchServe."""

import collections
import csv
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
import trustme

import marquee
from marquee.gateway.record import recorded
from marquee.serving.errors import OperationError
from marquee.serving.grpc_stubs import load_stubs
from marquee.serving.processes import left_over, worker_pids
from marquee.serving.server import find
from tests import forked
from tests.conftest import ROOT, WORKER, find_free_port

SERVE = [sys.executable, str(ROOT / "scripts" / "serve.py")]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_nothing_is_left(state: Path) -> None:
    assert left_over(state) == []
    assert not (state / "server.json").exists()
    assert not (state / "gateway.json").exists()
    assert not (state / "lock").exists()


@dataclass(frozen=True)
class Sample:
    """A test image with the label that evaluation gave it."""

    data: bytes
    label: str


@pytest.fixture(scope="module")
def samples(run) -> list[Sample]:
    with open(run / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))[:20]
    return [Sample(Path(row["path"]).read_bytes(), row["predicted"]) for row in rows]


@pytest.fixture(scope="module")
def versions(run, script, tmp_path_factory) -> Path:
    """A store with two versions of digits; 2.0 was packaged last."""
    folder = tmp_path_factory.mktemp("versions")
    for version in ("1.0", "2.0"):
        script("package", run, "--name", "digits", "--version", version, "--store", folder)
    return folder


def free_ports() -> tuple[int, int]:
    """The first of TorchServe's five, and the gateway's, which is followed by that of gRPC."""
    first = find_free_port()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return first, 30_000 + 100 * WORKER + first % 97


class Foreground:
    """``serve run``, with its output in a file."""

    def __init__(self, folder: Path, store: Path, *options: object, names=("digits",), gateway=True, env=None) -> None:
        self.state, self.output = folder / "s", folder / "output.txt"
        port = find_free_port()
        options = ("--store", store, "--state", self.state, "--port", port, *options)
        if gateway:
            options = (*options, "--gateway", 0, "--no-keys")
        self.command = [*SERVE, "run", *names, *map(str, options)]
        with open(self.output, "wb") as stream:
            self.process = forked.Forked(self.command, stdout=stream, stderr=stream, env={**os.environ, **(env or {})})

    @property
    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def until_ready(self) -> "Foreground":
        wait_for(lambda: recorded(self.state) or self.process.poll() is not None, 300)
        assert self.process.poll() is None, self.text
        self.record = recorded(self.state)
        self.server = find(self.state)
        return self

    def ask(self, sample: Sample, name: str = "digits", **options: Any) -> dict[str, Any]:
        url = f"{self.record.http}/predictions/{name}"
        answer = requests.post(url, data=sample.data, timeout=100, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_ready(self, **options: Any) -> bool:
        return requests.get(f"{self.record.http}/v2/health/ready", timeout=10, **options).status_code == 200

    def wait(self, seconds: float = 100) -> int:
        return self.process.wait(seconds)

    def clear_away(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        forked.run([*SERVE, "stop", "--state", str(self.state)], timeout=100)


@contextmanager
def foreground(folder: Path, store: Path, *options: object, **more: Any) -> Iterator[Foreground]:
    running = Foreground(folder, store, *options, **more)
    try:
        yield running
    finally:
        running.clear_away()


class Clients:
    """Threads that send one request after the other on connections that they keep, and count what becomes of them."""

    def __init__(self, url: str, samples: list[Sample], number: int) -> None:
        self.host = url.removeprefix("http://")
        self.samples, self.counts, self.ended = samples, collections.Counter(), threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(number)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=120)
        sent = 0
        while not self.ended.is_set():
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:  # nothing was sent
                    self.counts["closed"] += 1
                    return
            sample = self.samples[(number + sent) % len(self.samples)]
            sent += 1
            try:
                connection.request("POST", "/predictions/digits", sample.data)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status == 200:
                    self.counts["right" if json.loads(body)["label"] == sample.label else "wrong"] += 1
                else:
                    self.counts[f"refused {answer.status}"] += 1
                if answer.getheader("connection") == "close":
                    connection.close()
                if number:  # one asks without a pause; more would take the cores from what they ask
                    self.ended.wait(0.02 if answer.status == 200 else 0.2)
            except (OSError, http.client.HTTPException) as error:
                self.counts[f"lost {error!r}"] += 1
                connection.close()

    def end(self) -> collections.Counter:
        self.ended.set()
        return self.end_of_all()

    def end_of_all(self) -> collections.Counter:
        for thread in self.threads:
            thread.join(150)
        return self.counts


class GrpcClients(Clients):
    """The same over gRPC; after a refusal a client waits for a second, as those that repeat calls by themselves do."""

    def _run(self, number: int) -> None:
        stubs = load_stubs()
        with grpc.insecure_channel(self.host, options=[("grpc.enable_http_proxy", 0)]) as channel:
            predict = stubs.inference_grpc.InferenceAPIsServiceStub(channel).Predictions
            sent = 0
            while not self.ended.is_set():
                sample = self.samples[(number + sent) % len(self.samples)]
                sent += 1
                try:
                    message = stubs.inference.PredictionsRequest(model_name="digits", input={"data": sample.data})
                    answer = predict(message, timeout=120)
                    self.counts["right" if json.loads(answer.prediction)["label"] == sample.label else "wrong"] += 1
                except grpc.RpcError as error:
                    self.counts[error.code().name] += 1
                    self.ended.wait(1)


@contextmanager
def idle_connections(url: str, number: int) -> Iterator[int]:
    """That many, as far as this process may have them; every other one has sent the beginning of a request."""
    host, _, port = url.removeprefix("http://").partition(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections: list[socket.socket] = []
    try:
        for i in range(min(number, hard // 2)):
            connections.append(socket.create_connection((host, int(port)), timeout=60))
            if i % 2:
                connections[-1].sendall(b"POST /predictions/digits HTTP/1.1\r\nHost: x\r\n")
        yield len(connections)
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def started(versions, script, tmp_path_factory) -> Iterator[dict[str, Any]]:
    state, (port, gateway) = tmp_path_factory.mktemp("background") / "s", free_ports()
    options = ("--store", versions, "--state", state, "--port", port, "--gateway", gateway, "--no-keys")
    result = script("serve", "start", "digits=1.0", "digits=2.0", *options, "--json")
    try:
        yield {**json.loads(result.stdout), "state": state, "options": options, "stderr": result.stderr}
    finally:
        script("serve", "stop", "--state", state, check=False)


class TestBackground:
    """The order matters: the tests go on with what the one before left."""

    def status(self, started, script) -> dict[str, Any]:
        return json.loads(script("serve", "status", "--state", started["state"], "--json", check=False).stdout)

    def test_it_returns_when_it_is_ready(self, started, script, samples):
        assert started["running"] is True
        assert started["checked"] == 2 * 2 * 16
        gateway = started["gateway"]
        assert requests.get(f"{gateway['http']}/v2/health/ready", timeout=60).status_code == 200
        answer = requests.post(f"{gateway['http']}/predictions/digits", data=samples[0].data, timeout=60).json()
        assert (answer["label"], answer["model"]["version"]) == (samples[0].label, "1.0")
        with grpc.insecure_channel(gateway["grpc"]) as channel:
            grpc.channel_ready_future(channel).result(60)
        assert is_running(gateway["pid"])
        assert "digits=2.0 is READY" in started["stderr"]
        assert "serving" not in started["stderr"]

    def test_status(self, started, script):
        status = self.status(started, script)
        assert status["ready"] is True
        assert status["gateway"] == {**started["gateway"], "running": True, "ready": True}
        text = script("serve", "status", "--state", started["state"]).stdout
        assert f"gateway pid {started['gateway']['pid']}, HTTP {started['gateway']['http']}" in text
        assert text.splitlines()[1].endswith(": ready")

    @pytest.mark.parametrize("has_gateway", [True, False])
    def test_a_second_start_is_refused(self, started, script, has_gateway):
        options = started["options"] if has_gateway else started["options"][:6]
        result = script("serve", "start", "digits", *options, check=False)
        assert result.returncode == 1
        assert f"already running with pid {started['gateway']['pid']}; stop it first" in result.stderr
        assert f"serve.py stop --state {started['state']}" in result.stderr
        assert "golden answers equal" in (started["state"] / "logs" / "gateway.log").read_text()

    def test_its_ports_are_taken(self, started, versions, script, tmp_path):
        port = started["gateway"]["http"].rpartition(":")[2]
        for options in (("--gateway", port), ("--gateway", 0, "--gateway-grpc", int(port) + 1)):
            words = ("--store", versions, "--state", tmp_path / "t", "--port", find_free_port(), "--no-keys", *options)
            result = script("serve", "start", "digits", *words, check=False)
            assert result.returncode == 1
            assert "the gateway cannot listen on 127.0.0.1:" in result.stderr
            assert_nothing_is_left(tmp_path / "t")

    def test_a_killed_front_end_comes_back_as_it_was(self, started, script, samples):
        state, url = started["state"], started["gateway"]["http"]
        script("models", "scale", "digits", "--workers", 2, "--version", "2.0", "--state", state)
        script("models", "default", "digits", "2.0", "--state", state)
        server = find(state)
        time.sleep(3)  # what it serves is asked once a second
        clients = Clients(url, samples, 4)
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: requests.get(f"{url}/v2/health/ready", timeout=60).status_code != 200)
        wait_for(lambda: requests.get(f"{url}/v2/health/ready", timeout=60).status_code == 200, 300)
        counts = clients.end()
        assert set(counts) <= {"right", "refused 503"}, counts
        assert counts["right"] > 0
        again = find(state)
        assert again.pid != server.pid
        assert not is_running(server.pid)

        def workers() -> dict[str, int]:
            described = again.client().describe("digits", "all")
            return {entry["modelVersion"]: len(entry["workers"]) for entry in described}

        wait_for(lambda: workers() == {"1.0": 1, "2.0": 2})
        answer = requests.post(f"{url}/predictions/digits", data=samples[0].data, timeout=60).json()
        assert (answer["label"], answer["model"]["version"]) == (samples[0].label, "2.0")
        assert "Model server started" in (state / "logs" / "last" / "console.log").read_text()

    def test_a_killed_gateway(self, started, script):
        state, gateway = started["state"], started["gateway"]["pid"]
        server = find(state)
        os.kill(gateway, signal.SIGKILL)
        wait_for(lambda: not is_running(gateway))
        assert server.is_running()
        status = self.status(started, script)
        assert status["gateway"] == {**started["gateway"], "running": False, "ready": False}
        text = script("serve", "status", "--state", state, check=False)
        assert text.returncode == 1
        assert f"the gateway with pid {gateway} has ended; end what is left: " in text.stderr
        result = script("serve", "start", "digits", *started["options"], check=False)
        assert result.returncode == 1
        assert f"already running with pid {server.pid}; stop it first: " in result.stderr
        result = script("serve", "stop", "--state", state)
        assert f"stopped pid {server.pid}" in result.stdout
        assert_nothing_is_left(state)

    def test_a_deleted_state_folder(self, started, script):
        state = started["state"]
        gateway = json.loads(script("serve", "start", "digits", *started["options"], "--json").stdout)["gateway"]
        server = find(state)
        shutil.rmtree(state)
        result = script("serve", "start", "digits", *started["options"], check=False)
        assert f"already running with pid {gateway['pid']}; stop it first: " in result.stderr
        assert self.status(started, script)["gateway"]["pid"] == gateway["pid"]
        result = script("serve", "stop", "--state", state)
        assert f"stopped the gateway with pid {gateway['pid']}" in result.stdout
        assert not is_running(gateway["pid"])
        assert not server.is_running()
        assert_nothing_is_left(state)

    def test_nothing_to_stop(self, started, script):
        result = script("serve", "stop", "--state", started["state"], check=False)
        assert result.returncode == 1
        assert "no server is running" in result.stderr


class TestStartsThatFail:
    def options(self, tmp_path: Path, store: Path) -> tuple[object, ...]:
        port, gateway = free_ports()
        return ("--store", store, "--state", tmp_path / "s", "--port", port, "--gateway", gateway, "--no-keys")

    @pytest.mark.parametrize("subcommand", ["start", "run"])
    def test_java_does_not_start(self, subcommand, store, script, tmp_path):
        settings = (ROOT / "config.properties").read_text().replace("vmargs=", "vmargs=-XX:NoSuchOption=1 ")
        (tmp_path / "c.properties").write_text(settings)
        options = (*self.options(tmp_path, store), "--config", tmp_path / "c.properties")
        began = time.monotonic()
        result = script("serve", subcommand, "digits", *options, check=False)
        assert result.returncode == 1
        assert "Unrecognized VM option 'NoSuchOption=1'" in result.stderr.splitlines()[-1]
        assert time.monotonic() - began < 100  # the models would have had 300 seconds
        assert_nothing_is_left(tmp_path / "s")

    @pytest.mark.parametrize("place", ["config", "environment"])
    @pytest.mark.parametrize("words", [("start",), ("start", "--gateway", "0"), ("run",)], ids=" ".join)
    def test_its_own_open_inference_protocol(self, place, words, store, script, tmp_path):
        text = "ts_open_inference_protocol=true\n" if place == "config" else ""
        (tmp_path / "c.properties").write_text(text)
        options = ("--config", tmp_path / "c.properties", "--store", store, "--state", tmp_path / "s")
        environment = {"TS_OPEN_INFERENCE_PROTOCOL": "oip"} if place == "environment" else {}
        result = script("serve", words[0], "digits", *words[1:], *options, check=False, **environment)
        assert result.returncode == 1
        assert "ts_open_inference_protocol=true: TorchServe's own Open Inference Protocol" in result.stderr
        assert_nothing_is_left(tmp_path / "s")

    def test_a_killed_start(self, store, tmp_path):
        command = [*SERVE, "start", "digits", *map(str, self.options(tmp_path, store))]
        with forked.Forked(command, stderr=subprocess.PIPE, text=True) as process:
            server = wait_for(lambda: find(tmp_path / "s"))
            process.terminate()
            assert process.wait(100) == 1
            assert process.stderr.read().splitlines()[-1] == "interrupted"
        assert not server.is_running()
        assert_nothing_is_left(tmp_path / "s")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--graphql"], "--graphql is the gateway's; add --gateway PORT"),
            (["--gateway", "65535"], "--gateway 65535: there is no port after it"),
            (["--gateway", "70000"], "port: expected 0 to 65535, got 70000"),
            (["--gateway", "0", "--keys", "k", "--no-keys"], "--keys and --no-keys: choose one"),
            (["--gateway", "0", "--tls-key", "k"], "--tls-certificate and --tls-key: name both, or none"),
            (["--gateway", "0", "--tls-key", "k", "--tls-certificate", "c"], "certificate: c: no such file"),
            (["--gateway", "0", "--cors", "example.org"], "origins: 'example.org': expected a scheme"),
            (["--gateway", "0", "--drain", "-1"], "drain_seconds: expected a number of at least 0"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_usage(self, options, message, script, tmp_path):
        for subcommand in ("start", "run"):
            result = script("serve", subcommand, "digits", "--state", tmp_path / "s", *options, check=False)
            assert result.returncode == 2
            assert message in result.stderr
        assert not (tmp_path / "s").exists()


class TestForeground:
    def test_sigterm_while_loaded(self, store, samples, tmp_path):
        """With thousands of connections that send nothing, or no more than the head of a request."""
        with foreground(tmp_path, store) as running:
            running.until_ready()
            with idle_connections(running.record.http, 2_000) as number:
                wait_for(lambda: psutil.Process(running.process.pid).num_fds() > number)
                clients = Clients(running.record.http, samples, 8)
                over_grpc = GrpcClients(running.record.grpc, samples, 2)
                wait_for(lambda: min(clients.counts["right"], over_grpc.counts["right"]) >= 50)
                assert running.is_ready()
                running.process.send_signal(signal.SIGTERM)
                counts = clients.end_of_all()
                assert set(over_grpc.end()) == {"right", "UNAVAILABLE"}, over_grpc.counts
                assert set(counts) <= {"right", "refused 503", "closed"}, counts
                assert counts["closed"] == 8
            assert running.wait() == 0
            assert not running.server.is_running()
            assert_nothing_is_left(running.state)
            assert "SIGTERM: ending" in running.text

    def test_ctrl_c_with_a_lame_duck(self, store, samples, tmp_path):
        """The probe says at once that it ends, and requests are still answered for a while; a second signal ends it."""
        with foreground(tmp_path, store, "--lame-duck", 600) as running:
            running.until_ready()
            assert running.is_ready()
            running.process.send_signal(signal.SIGINT)
            wait_for(lambda: not running.is_ready())
            assert running.ask(samples[0])["label"] == samples[0].label
            assert requests.get(f"{running.record.http}/v2/health/live", timeout=10).status_code == 200
            running.process.send_signal(signal.SIGINT)
            assert running.wait() == 0
            assert_nothing_is_left(running.state)

    @pytest.mark.slow
    def test_torchserve_alone_is_kept_alive(self, store, script, samples, tmp_path):
        with foreground(tmp_path, store, gateway=False) as running:
            running.until_ready()
            assert running.record.http is None
            status = script("serve", "status", "--state", running.state).stdout
            assert f"kept alive by pid {running.process.pid}" in status
            os.kill(running.server.pid, signal.SIGSTOP)  # it looks alive
            again = wait_for(lambda: (now := find(running.state)) and now.pid != running.server.pid and now, 300)
            wait_for(lambda: "TorchServe is back" in running.text, 300)
            assert not is_running(running.server.pid)
            assert again.client().predict("digits", samples[0].data).body["label"] == samples[0].label
            assert script("serve", "stop", "--state", running.state).returncode == 0
            assert running.wait() == 0
            assert_nothing_is_left(running.state)

    @pytest.mark.slow
    def test_a_front_end_that_cannot_come_back(self, store, tmp_path):
        """The archive is gone. The delays of a minute's worth of attempts are the product's own."""
        copy = shutil.copytree(store, tmp_path / "store")
        with foreground(tmp_path, copy) as running:
            running.until_ready()
            shutil.rmtree(copy)
            os.kill(running.server.pid, signal.SIGKILL)
            assert running.wait(300) == 1
            lines = running.text.splitlines()
            assert "error: TorchServe could not be brought back: " in lines[-1]
            starts = [line.partition("is started again in ")[2] for line in lines if "is started again in" in line]
            assert starts == ["1 s", "5 s", "15 s", "15 s", "15 s"]
            assert_nothing_is_left(running.state)

    def test_a_closed_terminal_while_torchserve_is_started_again(self, store, tmp_path):
        """SIGHUP comes twice, from the system and from the shell; the second does not interrupt the end.

        The port is the one that Vertex AI names in a container.
        """
        _, port = free_ports()
        environment = {"AIP_HTTP_PORT": str(port)}
        with foreground(tmp_path, store, "--no-keys", gateway=False, env=environment) as running:
            running.until_ready()
            assert running.record.http == f"http://127.0.0.1:{port}"
            assert running.is_ready()
            running.server.process().kill()
            wait_for(lambda: running.text.count("started TorchServe, pid") == 2)
            running.process.send_signal(signal.SIGHUP)
            running.process.send_signal(signal.SIGHUP)
            assert running.wait() == 0
            assert_nothing_is_left(running.state)

    @pytest.mark.slow
    @pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a namespace of processes")
    def test_as_the_first_process_of_a_container(self, store, samples, tmp_path):
        """Ended processes of TorchServe become its children, and must not stay on the list; SIGTERM must reach it."""
        state, (port, gateway) = tmp_path / "s", free_ports()
        options = ("--store", store, "--state", state, "--port", port, "--gateway", gateway, "--no-keys")
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *SERVE, "run", "digits"]
        with open(tmp_path / "output.txt", "wb") as stream:
            container = subprocess.Popen([*command, *map(str, options)], stdout=stream, stderr=stream)
        try:
            url = f"http://127.0.0.1:{gateway}"

            def is_ready() -> bool:
                with suppress(requests.RequestException):
                    return requests.get(f"{url}/v2/health/ready", timeout=10).status_code == 200
                return False

            wait_for(is_ready, 300)
            (first,) = psutil.Process(container.pid).children()
            (front_end,) = (process for process in first.children() if "java" in process.name())
            front_end.kill()
            wait_for(lambda: not is_ready())
            wait_for(is_ready, 300)
            wait_for(lambda: all(child.status() != psutil.STATUS_ZOMBIE for child in first.children()))
            answer = requests.post(f"{url}/predictions/digits", data=samples[0].data, timeout=60).json()
            assert answer["label"] == samples[0].label
            first.terminate()
            assert container.wait(100) == 0
        finally:
            container.kill()
            container.wait(10)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    server = authority.issue_cert("localhost", "127.0.0.1")
    client = authority.issue_cert("client.example")
    for name, issued in (("server", server), ("client", client)):
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(folder / f"{name}.pem"), append=True)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    return folder


class TestTls:
    def test_only_1_3_and_only_with_a_certificate(self, authority, folder, store, script, samples, tmp_path):
        options = ("--tls-certificate", folder / "server.pem", "--tls-key", folder / "server.key")
        options += ("--tls-client-authority", folder / "authority.pem", "--access-log", "json")
        with foreground(tmp_path, store, *options) as running:
            running.until_ready()
            assert running.record.http.startswith("https://")
            trust = {"verify": str(folder / "authority.pem")}
            own = {**trust, "cert": (str(folder / "client.pem"), str(folder / "client.key"))}
            assert running.ask(samples[0], **own)["label"] == samples[0].label
            with pytest.raises(requests.RequestException):
                running.is_ready(**trust)
            client = self.client(running, folder, ("client.pem", "client.key"))
            assert client.predict("digits", samples[0].data).body["label"] == samples[0].label
            assert client.predict_grpc("digits", samples[0].data).body["label"] == samples[0].label
            with pytest.raises(OperationError):
                self.client(running, folder, None).predict("digits", samples[0].data)
            lines = [json.loads(line) for line in running.text.splitlines() if line.startswith("{")]
            asked = {(line["path"], line["protocol"], line["status"]) for line in lines}
            assert ("/predictions/digits", "HTTP/1.1", 200) in asked
            assert any(protocol == "gRPC" and status == "OK" for _, protocol, status in asked)
            for address, protocol in (
                (running.record.http.removeprefix("https://"), None),
                (running.record.grpc, "h2"),
            ):
                assert self.version(address, authority, protocol, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
                with pytest.raises((ssl.SSLError, OSError)):
                    self.version(address, authority, protocol, ssl.TLSVersion.TLSv1_2)
            authority_pem, key, certificate = (
                (folder / name).read_bytes() for name in ("authority.pem", "client.key", "client.pem")
            )
            with grpc.secure_channel(
                running.record.grpc, grpc.ssl_channel_credentials(authority_pem, key, certificate)
            ) as channel:
                grpc.channel_ready_future(channel).result(60)
            with grpc.secure_channel(running.record.grpc, grpc.ssl_channel_credentials(authority_pem)) as channel:
                call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                with pytest.raises(grpc.RpcError) as error:
                    call(b"", timeout=20)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            status = json.loads(script("serve", "status", "--state", running.state, "--json").stdout)
            assert status["gateway"]["ready"] is None
            running.process.terminate()
            assert running.wait() == 0
            assert_nothing_is_left(running.state)

    def client(self, running: Foreground, folder: Path, own: tuple[str, str] | None) -> marquee.Client:
        shown = None if own is None else (folder / own[0], folder / own[1])
        url, server = running.record.http, folder / "server.pem"
        return marquee.Client.gateway(url, grpc=running.record.grpc, certificate=server, client_certificate=shown)

    def version(self, address: str, authority: trustme.CA, protocol: str | None, version: ssl.TLSVersion) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        authority.issue_cert("client.example").configure_cert(context)
        context.minimum_version = context.maximum_version = version
        if protocol is not None:
            context.set_alpn_protocols([protocol])
        host, _, port = address.partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return str(secure.version())


def test_without_a_key_nobody_may_ask(folder, store, script, samples, tmp_path):
    """Keys are asked for unless told otherwise; one that is made while the gateway runs counts at once. Behind TLS."""
    state, (port, gateway) = tmp_path / "s", free_ports()
    options = ("--store", store, "--state", state, "--port", port, "--gateway", gateway)
    options += ("--tls-certificate", folder / "server.pem", "--tls-key", folder / "server.key")
    result = script("serve", "start", "digits", *options)
    try:
        assert "has no valid key" in result.stderr
        url, trust = f"https://127.0.0.1:{gateway}", {"verify": str(folder / "authority.pem"), "timeout": 60}
        assert requests.get(f"{url}/v2/health/ready", **trust).status_code == 200
        assert requests.post(f"{url}/predictions/digits", data=samples[0].data, **trust).status_code == 401
        key = script("keys", "add", "shop", "--state", state).stdout.split()[0]
        headers = {"Authorization": f"Bearer {key}"}
        answer = requests.post(f"{url}/predictions/digits", data=samples[0].data, headers=headers, **trust)
        assert answer.json()["label"] == samples[0].label
        status = json.loads(script("serve", "status", "--state", state, "--json").stdout)
        assert status["gateway"]["ready"] is True
        workers = worker_pids(find(state).pid)
    finally:
        script("serve", "stop", "--state", state, check=False)
    assert not any(map(is_running, workers))
    assert key not in (state / "logs" / "gateway.log").read_text()
