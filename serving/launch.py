"""Launches TorchServe's processes in a state folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from marquee.process_start import start_of
from marquee.serving.errors import OperationError
from marquee.serving.java import java_environment
from marquee.serving.java_properties import render
from marquee.serving.logs import GATEWAY_LOG, LAST_LOGS, last_line
from marquee.serving.processes import CONFIG_NAME, end_left_over
from marquee.serving.properties import is_true
from marquee.serving.record import Server
from marquee.serving.settings import read_addresses
from marquee.serving.store import Reference
from marquee.serving.trust import trust_of

INTERPRETER = sys.executable
"""Of the server and its workers, where a start names no other."""
LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
_LONGEST_SOCKET = 107
"""Bytes that the path of a Unix socket may have on Linux."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to launch."""

    folder: Path
    """The state folder."""
    properties: Mapping[str, str]
    """All settings, with absolute paths."""
    models: Sequence[Reference]
    store: Path
    python: str
    """Interpreter of the server and its workers."""

    def __post_init__(self) -> None:
        if not self.folder.is_absolute():
            raise ValueError(f"folder: expected an absolute path, got {self.folder}")


def launch(wanted: Launch) -> Server:
    """Starts the processes, and records the server in its state folder.

    Raises:
        OperationError: they cannot be started; nothing is left running.
        OSError: a file cannot be written, as on a full disk; nothing is left running.
    """
    folder, logs = wanted.folder, wanted.folder / "logs"
    trust = trust_of(wanted.properties)
    temporary = _temporary_folder()
    try:
        _prepare(wanted)
        with open(logs / "console.log", "wb") as console:
            pid = _run_launcher(wanted, temporary, console)
        server = Server(
            folder=folder,
            pid=pid,
            started=_start(pid, logs),
            addresses=read_addresses(dict(wanted.properties)),
            models=tuple(map(str, wanted.models)),
            store=wanted.store,
            temporary=temporary,
            authorized=not is_true(wanted.properties, "disable_token_authorization"),
            trust=trust,
        )
        server.save()
    except BaseException:
        # Whatever has started by now would be known to nobody: its record is the last thing that is written.
        end_left_over(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return server


def _prepare(wanted: Launch) -> None:
    folder, logs = wanted.folder, wanted.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    logs.mkdir(exist_ok=True)
    for path in logs.iterdir():
        if path.name not in (GATEWAY_LOG, LAST_LOGS):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    text = render({**wanted.properties, "enable_envvars_config": "false"})  # which were read already
    config = folder / CONFIG_NAME
    config.unlink(missing_ok=True)
    if "keystore_pass" in wanted.properties:
        config.touch(0o600)  # a password is for nobody else
    config.write_text(f"# The settings in use, written by this start.\n{text}", "ascii")
    (folder / "key_file.json").unlink(missing_ok=True)


def _run_launcher(wanted: Launch, temporary: Path, console: IO[bytes]) -> int:
    """Runs TorchServe's launcher, which ends when it has started the front end, whose pid this returns."""
    folder, logs = wanted.folder, wanted.folder / "logs"
    environment = java_environment() | {
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
    }
    for name in ("TS_CONFIG_FILE", "TS_OPEN_INFERENCE_PROTOCOL"):
        environment.pop(name, None)  # they would override --ts-config, and what it says
    command = [wanted.python, "-m", "ts.model_server", "--start", "--ncs", "--ts-config", str(folder / CONFIG_NAME)]
    command += ["--model-store", str(wanted.store)]
    if wanted.models:
        command += ["--models", *(f"{model.name}={model.find(wanted.store).name}" for model in wanted.models)]
    # A new session, so that neither Ctrl-C nor the end of this terminal reaches the server.
    launcher = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=console, stderr=console, start_new_session=True
    )
    try:
        launcher.wait()
    except BaseException:
        launcher.wait(timeout=30)  # it may finish, so that what it has started can be found
        raise
    pid_file = temporary / ".model_server.pid"
    if launcher.returncode != 0 or not pid_file.is_file():
        raise OperationError(f"TorchServe did not start: {last_line(logs / 'console.log')}; see {logs}")
    return int(pid_file.read_text())


def _start(pid: int, logs: Path) -> str:
    started = start_of(pid)
    if started is None:
        raise OperationError(f"TorchServe ended at once: {last_line(logs / 'console.log')}; see {logs}")
    return started


def _temporary_folder() -> Path:
    """A folder for unpacked archives and the workers' sockets.

    Raises:
        OperationError: it cannot be made, or its path is too long for a socket.
    """
    parent = tempfile.gettempdir()
    try:
        # Short on purpose, because the sockets' paths may not be long.
        folder = Path(tempfile.mkdtemp(prefix="ts-"))
    except OSError as error:
        raise OperationError(
            f"{parent}: TorchServe's temporary files cannot be written: {error.strerror}; set TMPDIR to another folder"
        ) from error
    length = len(os.fsencode(folder / ".ts.sock.65535"))
    if length > _LONGEST_SOCKET:
        folder.rmdir()
        raise OperationError(
            f"TMPDIR={parent}: too long: a worker's socket in it would have a path of {length} bytes, and the system "
            f"allows {_LONGEST_SOCKET} (AF_UNIX path too long); set TMPDIR to a shorter folder, such as /tmp"
        )
    return folder
