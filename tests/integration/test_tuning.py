"""tune.py and overload on a real TorchServe."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from marquee.locks import locked
from marquee.serving.archive import check_archive
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.model_config import read_model_config, update_model_config
from marquee.serving.server import find
from marquee.serving.tuning.load import Endpoint, closed_loop
from tests import forked
from tests.conftest import ROOT


@pytest.fixture
def archive(store, tmp_path) -> Path:
    """An archive of the test's own, with a key that tuning does not know."""
    shutil.copyfile(store / "digits.mar", tmp_path / "digits.mar")
    update_model_config(tmp_path / "digits.mar", {"mine": "kept"})
    return tmp_path / "digits.mar"


def tune(archive, *arguments) -> list[str]:
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), "digits", "--store", str(archive.parent)]
    return [*command, "--seconds", "0.3", *arguments]


def has_worker(state: Path) -> bool:
    """Whether a server runs there that has loaded a model."""
    if server := find(state):
        client = server.client()
        with suppress(OperationError):  # it does not listen yet
            models = [client.describe(model["modelName"])[0] for model in client.list_models()]
            return any(worker["status"] == "READY" for model in models for worker in model["workers"])
    return False


def wait_for(condition, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_kill_in_the_middle_and_the_way_to_an_archive_that_serves(archive, script, free_port):
    state = archive.parent / ".digits.tuning"
    before = archive.read_bytes()

    # Killed hard when its server has a worker.
    with forked.Forked(tune(archive, "--minutes", "5"), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: has_worker(state))
        process.send_signal(signal.SIGKILL)
    left = find(state)
    assert left is not None  # nobody was there to stop it
    assert archive.read_bytes() == before

    # The same command stops what was left behind, and keeps to its time.
    result = forked.run(tune(archive, "--minutes", "0.1", "--json"), cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"stopping pid {left.pid}, which an earlier call left behind" in result.stderr
    assert not left.is_running()
    assert not state.exists()
    tuned = json.loads(result.stdout)
    assert tuned["met"]
    assert tuned["written"]
    assert {entry["slices"] for entry in tuned["swept"]} == {1}
    assert {entry["slices"] for entry in tuned["finals"]} <= {1, 2, 3}
    assert all(entry["answers_per_second"] > 0 for entry in tuned["finals"])
    assert tuned["share_of_in_process"] > 0

    # What was chosen is what the archive says, beside what it said before, and what a server then does.
    check_archive(archive)
    config = read_model_config(archive)
    assert config["mine"] == "kept"
    settings = {**config, **config["handler"]}
    assert {key: settings[key] for key in tuned["changes"]} == tuned["changes"]
    assert settings["variant"] == "auto"
    assert config["jobQueueSize"] >= 16
    server = archive.parent / "s"
    script("serve", "start", "digits", "--store", archive.parent, "--state", server, "--port", free_port)
    try:
        (described,) = find(server).client().describe("digits")
        assert described["batchSize"] == config["batchSize"]
        wait_for(lambda: [worker["status"] for worker in find(server).client().describe("digits")[0]["workers"]])
        assert len(find(server).client().describe("digits")[0]["workers"]) == config["minWorkers"]
    finally:
        script("serve", "stop", "--state", server)

    # A limit that nothing meets: the reason, and nothing is written.
    before = archive.read_bytes()
    result = forked.run(tune(archive, "--minutes", "0.01", "--p99-ms", "0.01"), cwd=ROOT, timeout=300)
    assert result.returncode == 1
    assert "no settings answer 99 % of the requests within 0.01 ms; the lowest p99 seen is" in result.stderr
    assert archive.read_bytes() == before


def test_an_archive_that_is_refused_says_why(archive, script):
    update_model_config(archive, {"threads": "many"})  # which belongs to the handler
    result = script("tune", "digits", "--store", archive.parent, "--seconds", "0.5", check=False)
    assert result.returncode == 1
    assert "model-config.yaml: handler.threads: expected int, got str 'many'" in result.stderr
    assert not (archive.parent / ".digits.tuning").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--minutes", "0"], ["--clients=-1"], ["--p99-ms", "x"], ["--max-accuracy-drop", "2"], ["--fresh"]],
)
def test_usage(arguments, script):
    result = script("tune", "digits", *arguments, check=False)
    assert result.returncode == 2
    assert result.stdout == ""


def test_two_at_once_are_one_too_many(archive, script):
    with locked(archive.parent / ".digits.tuning", "marquee tune"):
        result = script("tune", "digits", "--store", archive.parent, check=False)
    assert result.returncode == 1
    assert f"another marquee tune is running on this archive: pid {os.getpid()} (marquee tune)" in result.stderr


def test_overload_is_answered_or_refused_and_then_over(served, digits):
    """More clients than the queue has room for: each gets its answer or a 503, and everything is well right after."""
    endpoint = Endpoint.of_model(served.url, "digits", KeyFile(served.state / "key_file.json").token("inference"))
    bodies = [path.read_bytes() for path in sorted((digits / "test" / "7").glob("*.png"))]
    load = closed_loop(endpoint, bodies, clients=300, seconds=1)
    assert set(load.latencies) == {200, 503}
    assert load.errors == 0
    assert load.answered > 0
    for body in bodies[:20]:
        answer = served.client.predict("digits", body)
        assert (answer.status, answer.body["label"]) == (200, "7")
