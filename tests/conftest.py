"""Shared pieces: real digits, one small trained run, one real TorchServe."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; and two threads each, that wait for each other, are slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests import forked  # noqa: E402 - it keeps the environment

ROOT = Path(__file__).resolve().parent.parent
# Small enough to train in seconds, real enough to be right most of the time. Augmentation would take
# longer than the network.
SETTINGS = (
    "--image.size 32 --model.arch cnn4_w8 --loop.epochs 4 --loop.batch-size 32 --loop.workers 0 "
    "--loop.precision fp32 --optimizer.lr 1e-2 --augment.crop-scale 0.9 --augment.horizontal-flip 0 "
    "--augment.rotation 0 --augment.zoom 0 --augment.color 0"
).split()
# The report would take longer than the network, too; tests of reports ask for it by --report.
QUICK = ["--no-report", *SETTINGS]


# In the background of a shell Ctrl-C is ignored, and under nohup the end of a terminal: in what the tests start, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # the tests themselves go on; what they start has the default

_INDEPENDENT = {
    "test_training.py",
    "test_finders.py",
    "test_import_model.py",
    "test_pretrained.py",
    "test_benchmarks.py",
}
"""Long files whose tests share nothing that takes long to make."""
_LONGEST = (
    "test_compiled.py",
    "test_gateway_process.py",
    "test_gateway_survival.py",
    "test_parts_that_fail.py",
    "test_run_folders.py",
    "test_gpu_pack.py",
    "test_optimize.py",
    "test_other_hosts.py",
    "test_tuning.py",
)
"""Files that take minutes in one worker, the longest first: they are begun first."""
_QUICK = {"test_serving.py", "test_oip_archive.py", "test_forked.py"}
"""The integration tests that --quick runs, too: an endpoint from its training to its answers."""


class _Scheduling(LoadScopeScheduling):
    """A file's tests stay in one worker, so that its fixtures are made once; those of the long ones are shared out.

    Not by ``xdist_group``: xdist 3.8 writes groups into node ids, which pytest 9.2 does not let it change.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, first = nodeid.split("::")[:2]
        return f"{file}::{first.partition('[')[0]}" if Path(file).name in _INDEPENDENT else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """The workers of pytest-xdist are forked, unless they were asked for as something else than ``-n``."""
    asked = config.getoption("tx", None) or []
    if set(asked) == {"popen"}:
        config.option.tx = forked.workers(len(asked))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the tests marked slow")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that are no short text are called by their place: gzip puts the time into them, and workers must agree."""
    is_text = isinstance(val, bytes) and len(val) <= 40 and val.isascii() and val.decode("ascii").isprintable()
    return argname if isinstance(val, bytes) and not is_text else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "integration" and item.path.name not in _QUICK:
            item.add_marker(pytest.mark.slow)
    if config.getoption("--quick"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow; left out by --quick"))
    # The longest come first: nobody should wait for them in the end.
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, bool]:
    name = item.path.name
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST), "slow" not in item.keywords


@pytest.fixture(autouse=True)
def logging_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """What earlier tests, and libraries in them, did to the project's loggers is undone: tests read what is logged."""
    logging.disable(logging.NOTSET)
    for handler in (caplog.handler, *logging.getLogger().handlers):  # they serve all tests
        handler.setLevel(logging.NOTSET)
    for name in logging.root.manager.loggerDict:
        if name.partition(".")[0] == "marquee":
            logger = logging.getLogger(name)
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.INFO if name == "marquee" else logging.NOTSET)


Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def script() -> Script:
    """Runs ``scripts/NAME.py`` as a user does and returns the finished process.

    The process is forked from one that has imported the libraries; ``cold=True`` starts an interpreter.
    """

    def run(name: str, *arguments: object, check: bool = True, cold: bool = False, cwd: Path = ROOT, **env: str):
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        options = {"cwd": cwd, "env": {**os.environ, **env}, "timeout": 500}
        if cold:
            result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        else:
            result = forked.run(command, **options)
        if check:
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    return run


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder in the first worker that wants it, for all of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, finished = shared / name, shared / f"{name}.finished"
        with FileLock(shared / f"{name}.lock"):
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                fill(folder)
                finished.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def kserve(once: Once) -> Path:
    """A Python with KServe's server and its client, which ask for other libraries than this project has."""
    from tests.environments import environment_with

    wanted = ROOT / "examples" / "hosts" / "requirements-kserve.txt"
    return once("kserve", lambda folder: environment_with(folder / "venv", wanted)) / "venv" / "bin" / "python"


@pytest.fixture(scope="session")
def digits(once: Once) -> Path:
    """scikit-learn's digits as train/ and test/ of class folders."""

    def fill(folder: Path) -> None:
        from marquee.training.tasks.image_classification.data.digits import write_digits

        write_digits(folder / "digits")

    return once("data", fill) / "digits"


@pytest.fixture(scope="session")
def few(digits: Path) -> Path:
    """355 digits, for tests that ask what a training does, not how well it learns."""
    return digits / "test"


@pytest.fixture(scope="session")
def run(once: Once, digits: Path, script: Script) -> Path:
    """A finished run on the digits."""
    return (
        once("runs", lambda folder: script("train", "--data", digits, "--out", folder / "digits", *QUICK, "--report"))
        / "digits"
    )


@pytest.fixture(scope="session")
def store(once: Once, run: Path, script: Script) -> Path:
    """A model store with digits.mar."""
    return once("store", lambda folder: script("package", run, "--name", "digits", "--store", folder))


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
    state = tmp_path_factory.mktemp("server")
    port = find_free_port()
    started = script("serve", "start", "digits", "--store", store, "--state", state, "--port", port, "--json")
    try:
        yield Served(state, json.loads(started.stdout))
    finally:
        script("serve", "stop", "--state", state)


def find_free_port() -> int:
    """The first of five free ports, where no other worker of this session, and hardly another session, looks."""
    from marquee.serving.settings import Addresses

    return Addresses.free(20_100 + 1_000 * WORKER + 5 * (os.getpid() % 160)).base_port


@pytest.fixture
def free_port() -> int:
    """The first of five free ports."""
    return find_free_port()
