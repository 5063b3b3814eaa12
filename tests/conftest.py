"""Shared pieces: real digits, one small trained run, one real TorchServe."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Small enough to train in seconds, real enough to be right most of the time.
QUICK = (
    "--image.size 32 --model.arch test_resnet --loop.epochs 4 --loop.batch-size 32 --loop.workers 0 "
    "--optimizer.lr 4e-3 --augment.horizontal-flip 0 --augment.crop-scale 0.9"
).split()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; left out by --quick"))


Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def script() -> Script:
    """Runs ``scripts/NAME.py`` as a user does and returns the finished process."""

    def run(name: str, *arguments: object, check: bool = True, cwd: Path = ROOT, **env: str):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=500, check=False
        )
        if check:
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as train/ and test/ of class folders."""
    from marquee.training.data.digits import write_digits

    folder = tmp_path_factory.mktemp("data") / "digits"
    write_digits(folder)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Path, script: Script) -> Path:
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    script("train", "--data", digits, "--out", folder, *QUICK)
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, run: Path, script: Script) -> Path:
    """A model store with digits.mar."""
    folder = tmp_path_factory.mktemp("store")
    script("package", run, "--name", "digits", "--store", folder)
    return folder


class Served:
    """A running TorchServe and how to reach it."""

    def __init__(self, state: Path, started: dict) -> None:
        from marquee.serving import server

        self.state = state
        self.started = started
        self.server = server.find(state)
        self.client = self.server.client()
        self.url = self.server.addresses.inference
        self.management = self.server.addresses.management

    def headers(self, kind: str = "inference") -> dict[str, str]:
        keys = json.loads((self.state / "key_file.json").read_text())
        return {"Authorization": f"Bearer {keys[kind]['key']}"}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, store: Path, script: Script) -> Iterator[Served]:
    """digits.mar behind a real TorchServe on free ports, started by scripts/serve.py."""
    from marquee.serving.settings import Addresses

    state = tmp_path_factory.mktemp("server")
    port = Addresses.free(20100).base_port
    started = script("serve", "start", "digits", "--store", store, "--state", state, "--port", port, "--json")
    try:
        yield Served(state, json.loads(started.stdout))
    finally:
        script("serve", "stop", "--state", state)


@pytest.fixture
def free_port() -> int:
    """The first of five free ports."""
    from marquee.serving.settings import Addresses

    return Addresses.free(21100).base_port
