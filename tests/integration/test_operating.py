"""Operating a server: starts that fail, two at once, killed and closed ones, TLS, versions side by side."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import marquee
from marquee.serving.processes import left_over, worker_pids
from marquee.serving.server import find
from tests.conftest import ROOT, Served, find_free_port

SERVE = [sys.executable, str(ROOT / "scripts" / "serve.py")]
QUICK_FAILURE = 100
"""Seconds; a start used to wait for 300 before it said anything."""


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def is_running(pid: int) -> bool:
    """A process that has ended and that nobody has asked for its exit code yet does not run."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_of(store: Path, state: Path, port: int, *names: str) -> list[str]:
    options = ["--store", str(store), "--state", str(state), "--port", str(port)]
    return [*SERVE, "start", *(names or ("digits",)), *options]


def assert_nothing_is_left(state: Path) -> None:
    assert left_over(state) == []
    assert not (state / "server.json").is_file()
    assert not (state / "lock").exists()


@pytest.fixture(scope="module")
def versions(run, script, tmp_path_factory) -> Path:
    """A store with two versions of digits; 2.0 was packaged last."""
    folder = tmp_path_factory.mktemp("versions")
    for version in ("1.0", "2.0"):
        script("package", run, "--name", "digits.mar", "--version", version, "--store", folder)
    return folder


class TestPackaging:
    def test_versions_stay_side_by_side(self, versions):
        assert {path.name for path in versions.iterdir()} == {"digits.mar", "digits-1.0.mar", "digits-2.0.mar"}
        assert (versions / "digits.mar").read_bytes() == (versions / "digits-2.0.mar").read_bytes()
        assert (versions / "digits.mar").read_bytes() != (versions / "digits-1.0.mar").read_bytes()

    def test_an_archive_of_before_is_kept(self, versions, run, script, tmp_path):
        shutil.copyfile(versions / "digits-1.0.mar", tmp_path / "digits.mar")
        script("package", run, "--name", "digits", "--version", "2.0", "--store", tmp_path)
        assert (tmp_path / "digits-1.0.mar").read_bytes() == (versions / "digits-1.0.mar").read_bytes()

    def test_another_model_s_archive_is_not_overwritten(self, versions, run, script):
        before = (versions / "digits-1.0.mar").read_bytes()
        result = script("package", run, "--name", "digits-1.0", "--store", versions, check=False)
        assert result.returncode == 1
        assert "digits-1.0.mar: is version 1.0 of digits; choose another --name or --version" in result.stderr
        assert (versions / "digits-1.0.mar").read_bytes() == before

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--version", "1/0"), ("--version", ""), ("--version", "../1"), ("--name", "a b"), ("--name", "a=1")],
    )
    def test_a_name_or_version_that_cannot_be_served_is_refused(self, option, value, run, script, tmp_path):
        options = {"--name": "digits", "--version": "1.0", option: value}
        words = [word for pair in options.items() for word in pair]
        result = script("package", run, *words, "--store", tmp_path / "store", check=False)
        assert result.returncode == 1
        assert f"{option} {value!r}: expected letters and digits" in result.stderr
        assert not (tmp_path / "store").exists()

    def test_a_tuned_archive_is_tuned_under_both_names(self, versions, tmp_path):
        from marquee.serving.model_config import read_model_config, update_model_config

        for name in ("digits.mar", "digits-1.0.mar", "digits-2.0.mar"):
            shutil.copyfile(versions / name, tmp_path / name)
        update_model_config(tmp_path / "digits.mar", {"batchSize": 3})
        sizes = {path.name: read_model_config(path)["batchSize"] for path in tmp_path.glob("*.mar")}
        assert sizes == {"digits.mar": 3, "digits-2.0.mar": 3, "digits-1.0.mar": 8}


class TestRefusedAtOnce:
    def test_an_absent_version(self, versions, script, tmp_path):
        result = script("serve", "start", "digits=3.0", "--store", versions, "--state", tmp_path / "s", check=False)
        assert result.returncode == 1
        assert "has no version 3.0 of digits; it has 1.0, 2.0" in result.stderr

    def test_a_version_that_is_named_twice(self, versions, script, tmp_path):
        words = ("digits", "digits=2.0", "--store", versions, "--state", tmp_path / "s")
        result = script("serve", "start", *words, check=False)
        assert result.returncode == 1
        assert "digits and digits=2.0: both are version 2.0 of digits; name it once" in result.stderr

    @pytest.mark.parametrize("workers", ["0", "-1"])
    def test_a_model_without_workers(self, workers, script, tmp_path):
        result = script("models", "register", "digits", f"--workers={workers}", "--state", tmp_path, check=False)
        assert result.returncode == 2
        assert f"error: --workers {workers}: expected 1 or more" in result.stderr

    def test_a_long_temporary_folder(self, store, tmp_path, free_port):
        temporary = tmp_path / ("t" * 100)
        temporary.mkdir()
        command = start_of(store, tmp_path / "s", free_port)
        environment = {**os.environ, "TMPDIR": str(temporary)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 1
        assert f"TMPDIR={temporary}: too long" in result.stderr
        assert_nothing_is_left(tmp_path / "s")
        assert list(temporary.iterdir()) == []

    def test_tls_without_a_certificate(self, store, script, tmp_path):
        (tmp_path / "c.properties").write_text("inference_address=https://127.0.0.1:9080\n")
        words = ("--config", tmp_path / "c.properties", "--store", store, "--state", tmp_path / "s")
        result = script("serve", "start", "digits", *words, check=False)
        assert result.returncode == 1
        assert "TLS without a certificate: name certificate_file" in result.stderr


class TestStartsThatFail:
    def test_a_worker_that_dies_twice(self, store, tmp_path, free_port):
        """The workers find another torch, which cannot be imported; this command itself needs none."""
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object')")
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'broken'}:{os.environ.get('PYTHONPATH', '')}"}
        command, began = start_of(store, tmp_path / "s", free_port), time.monotonic()
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
        assert time.monotonic() - began < QUICK_FAILURE
        assert result.returncode == 1
        assert "libtorch_cpu.so: cannot open shared object" in result.stderr.splitlines()[-1]
        assert_nothing_is_left(tmp_path / "s")

    def test_a_temporary_folder_without_room(self, store, tmp_path, free_port):
        """No process may write more than 100 kB into a file: the archive cannot be unpacked, as on a full disk."""

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        command = start_of(store, tmp_path / "s", free_port)
        result = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=200)
        assert result.returncode == 1
        assert "digits is not served: " in result.stderr
        assert "File too large" in result.stderr
        assert_nothing_is_left(tmp_path / "s")

    def test_a_record_that_cannot_be_written(self, store, script, tmp_path, free_port):
        """As on a disk that is full after the server was started: nobody would know of it."""
        (tmp_path / "s" / "server.json" / "x").mkdir(parents=True)
        words = ("--store", store, "--state", tmp_path / "s", "--port", free_port)
        result = script("serve", "start", "digits", *words, check=False)
        assert result.returncode == 1
        assert "server.json" in result.stderr.splitlines()[-1]
        assert_nothing_is_left(tmp_path / "s")


@pytest.fixture(scope="module")
def fleet(versions, script, tmp_path_factory) -> Iterator[Served]:
    """Two versions behind TLS, with a certificate of one's own that names no address."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "tls").mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=models.example",
         "-addext", "subjectAltName=DNS:models.example", "-keyout", "tls/key.pem", "-out", "tls/own.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    port = find_free_port()
    text = (ROOT / "config.properties").read_text().replace("=http:", ": https\\:")
    text += "certificate_file: tls/own.pem\nprivate_key_file tls/key.pem\nenable_grpc_ssl \\\n  true\n"
    (folder / "config.properties").write_bytes(b"\xef\xbb\xbf" + text.encode())
    state = folder / "s"
    options = ("--config", folder / "config.properties", "--store", versions, "--state", state, "--port", port)
    started = script("serve", "start", "digits", "digits=1.0", *options, "--json")
    try:
        yield Served(state, json.loads(started.stdout))
    finally:
        script("serve", "stop", "--state", state, check=False)


@pytest.fixture(scope="module")
def image(digits) -> Path:
    return next((digits / "test" / "7").glob("*.png"))


class TestRunning:
    """The order matters: the last ones stop processes of the server, and then kill it."""

    def test_both_versions_were_verified_over_both_protocols(self, fleet, script):
        assert fleet.started["checked"] == 2 * 2 * 16
        status = json.loads(script("serve", "status", "--state", fleet.state, "--json").stdout)
        assert status["ready"] is True
        assert {(model["version"], *model["workers"]) for model in status["models"]} == {
            ("1.0", "READY"),
            ("2.0", "READY"),
        }

    def test_the_default_is_switched(self, fleet, image, script):
        def served(*options: str) -> str:
            result = script("predict", "digits", image, "--state", fleet.state, "--json", *options)
            return json.loads(result.stdout)["model"]["version"]

        assert served() == "2.0"
        assert served("--version", "1.0") == "1.0"
        assert served("--version", "1.0", "--grpc") == "1.0"
        script("models", "default", "digits", "1.0", "--state", fleet.state)
        assert served() == "1.0"
        assert served("--grpc") == "1.0"
        assert served("--version", "2.0") == "2.0"

    def test_who_trusts_whom(self, fleet, image):
        url, token = fleet.url.replace("127.0.0.1", "localhost"), fleet.headers()["Authorization"].split()[1]
        own = fleet.state.parent / "tls" / "own.pem"
        client = marquee.Client(url, token=token, certificate=own)
        assert client.predict("digits", image).status == 200
        assert client.predict_grpc("digits", image).error is None
        with pytest.raises(marquee.OperationError, match="CERTIFICATE_VERIFY_FAILED"):
            marquee.Client(url, token=token).predict("digits", image)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{fleet.url}/ping", timeout=60)

    def test_another_certificate_is_not_trusted(self, fleet, image, tmp_path):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=models.example"]
        subprocess.run(
            [*command, "-keyout", tmp_path / "k.pem", "-out", tmp_path / "o.pem"], check=True, capture_output=True
        )
        token = fleet.headers()["Authorization"].split()[1]
        stranger = marquee.Client(fleet.url, token=token, certificate=tmp_path / "o.pem")
        for ask in (stranger.predict, stranger.predict_grpc):
            with pytest.raises(marquee.OperationError, match="CERTIFICATE_VERIFY_FAILED"):
                ask("digits", image)

    def test_while_a_command_works_in_the_state_folder_others_wait(self, fleet, versions, script, free_port):
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom marquee.locks import locked\n"
            "with locked(Path(sys.argv[1]), 'marquee serve start'):\n    print(flush=True)\n    time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code, str(fleet.state)], stdout=subprocess.PIPE) as process:
            try:
                process.stdout.readline()
                for words in (("start", "digits", "--store", versions, "--port", free_port), ("stop",)):
                    result = script("serve", *words, "--state", fleet.state, check=False)
                    assert result.returncode == 1
                    assert f"pid {process.pid} (marquee serve start) is working in this folder" in result.stderr
            finally:
                process.kill()
        assert fleet.server.is_running()

    def test_a_second_start_on_other_ports(self, fleet, versions, script, free_port):
        words = ("--store", versions, "--state", fleet.state, "--port", free_port)
        result = script("serve", "start", "digits", *words, check=False)
        assert f"already running with pid {fleet.server.pid}; stop it first" in result.stderr
        record = (fleet.state / "server.json").read_bytes()
        (fleet.state / "server.json").unlink()
        try:
            result = script("serve", "start", "digits", *words, check=False)
            assert result.returncode == 1
            assert f"pid {fleet.server.pid} (front end)" in result.stderr
            assert f"serve.py stop --state {fleet.state}" in result.stderr
            status = script("serve", "status", "--state", fleet.state, check=False)
            assert f"pid {fleet.server.pid} (front end)" in status.stdout
        finally:
            (fleet.state / "server.json").write_bytes(record)

    def test_status_asks_the_processes(self, fleet, script):
        """A worker that was stopped: the management API goes on saying READY."""
        (worker,) = (worker["pid"] for worker in fleet.client.describe("digits", "2.0")[0]["workers"])
        os.kill(worker, signal.SIGSTOP)
        try:
            status = json.loads(script("serve", "status", "--state", fleet.state, "--json").stdout)
            states = {model["version"]: model["workers"] for model in status["models"]}
            assert states == {"1.0": ["READY"], "2.0": ["STOPPED"]}
            assert status["ready"] is False
        finally:
            os.kill(worker, signal.SIGCONT)

    def test_the_workers_of_a_killed_front_end_are_named_and_ended(self, fleet, script):
        """Workers that are stopped, or still loading, do not notice that their front end is gone."""
        workers = worker_pids(fleet.server.pid)
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        os.kill(fleet.server.pid, signal.SIGKILL)
        wait_for(lambda: not fleet.server.is_running())
        status = script("serve", "status", "--state", fleet.state, check=False)
        assert status.returncode == 1
        assert all(f"pid {worker} (worker)" in status.stdout for worker in workers)
        shutil.rmtree(fleet.state)
        stopped = script("serve", "stop", "--state", fleet.state)
        assert all(f"pid {worker} (worker)" in stopped.stdout for worker in workers)
        assert not any(is_running(worker) for worker in workers)
        assert not fleet.server.temporary.exists()


def test_a_closed_terminal_ends_tuning_with_its_server(store, tmp_path):
    """SIGHUP comes twice, from the system and from the shell; the second must not interrupt the clearing up."""
    shutil.copyfile(store / "digits.mar", tmp_path / "digits.mar")
    state = tmp_path / ".digits.tuning"
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), "digits", "--store", str(tmp_path), "--minutes", "5"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        server = wait_for(lambda: find(state))
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 1
    assert not server.is_running()
    assert_nothing_is_left(state)


def test_nohup_is_respected(tmp_path):
    """A command that ignores SIGHUP from its start goes on ignoring it."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from marquee.commands.cli import run\n"
        "def main():\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('alive')\n"
        "run(main)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (0, "alive\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_one_line(number):
    code = (
        "import os, sys, time\nfrom marquee.commands.cli import run\n"
        "def main():\n    os.kill(os.getpid(), int(sys.argv[1]))\n    time.sleep(60)\n"
        "run(main)\n"
    )
    command = [sys.executable, "-c", code, str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stderr) == (1, "interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_that_the_terminal_cannot_show(encoding):
    code = (
        "from marquee.commands.cli import run\nfrom marquee.serving.errors import OperationError\n"
        "def main():\n    print('猫 \\udcff.jpg')\n    raise OperationError('犬: not found')\n"
        "run(main)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False, timeout=60)
    assert result.returncode == 1
    assert b".jpg\n" in result.stdout
    assert b"not found" in result.stderr
    assert b"Traceback" not in result.stderr
