"""Starts, monitors and stops TorchServe.

The server runs in a state folder (default ``.torchserve``), which holds all of its files::

    .torchserve/
      server.json         process and addresses
      config.properties   the settings in use: config.properties with the changes of this start
      key_file.json       access tokens, written by TorchServe, mode 0600
      logs/               console.log, ts_log.log, model_log.log
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from marquee import hints
from marquee.serving.archive import check_archive
from marquee.serving.client import Client
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE, find_config, find_store
from marquee.serving.errors import OperationError
from marquee.serving.java import java_environment
from marquee.serving.keys import KeyFile, StaticToken
from marquee.serving.processes import CONFIG_NAME, front_end, occupied
from marquee.serving.readiness import last_line, wait_until_listening, wait_until_ready
from marquee.serving.settings import Addresses, read_addresses, read_properties

logger = logging.getLogger(__name__)

LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
_STATE_FILE = "server.json"


@dataclass(frozen=True)
class Server:
    """A server that :func:`start` started."""

    folder: Path
    pid: int
    """Process ID of the Java front end; the workers are its child processes."""
    create_time: float
    """Start of that process in seconds since the epoch: the pid alone may have been reused by another process."""
    addresses: Addresses
    models: tuple[str, ...]
    store: Path
    temporary: Path
    """TorchServe's folder for unpacked archives and sockets; removed by :func:`stop`."""
    authorized: bool
    """False when the configuration disables access tokens."""

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.folder / "logs"

    def is_running(self) -> bool:
        """True while the front end's process lives."""
        process = self._process()
        return process is not None and process.status() != psutil.STATUS_ZOMBIE

    def client(self, timeout: float = 120) -> Client:
        """A client with this server's addresses and tokens."""
        keys = KeyFile(self.folder / "key_file.json") if self.authorized else StaticToken(None)
        return Client.of(self.addresses, keys, timeout)

    def save(self) -> None:
        """Writes ``server.json``."""
        document = {
            **asdict(self),
            "folder": str(self.folder),
            "store": str(self.store),
            "temporary": str(self.temporary),
        }
        (self.folder / _STATE_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.create_time) < 1 else None
        except psutil.NoSuchProcess:
            return None


def find(folder: Path = DEFAULT_STATE) -> Server | None:
    """The running server of a state folder, or None."""
    server = _recorded(folder)
    return server if server is not None and server.is_running() else None


def _recorded(folder: Path) -> Server | None:
    """The server that ``server.json`` names, which may have died since."""
    try:
        document = json.loads((Path(folder) / _STATE_FILE).read_text("utf-8"))
        return Server(
            folder=Path(document["folder"]),
            pid=document["pid"],
            create_time=document["create_time"],
            addresses=Addresses(**document["addresses"]),
            models=tuple(document["models"]),
            store=Path(document["store"]),
            temporary=Path(document["temporary"]),
            authorized=document["authorized"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start(
    models: Sequence[str],
    *,
    config: Path = DEFAULT_CONFIG,
    store: Path | None = None,
    folder: Path = DEFAULT_STATE,
    port: int | None = None,
    timeout: float = 300,
    python: str = sys.executable,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Starts TorchServe with the named models and waits until each has a worker that is READY.

    Args:
        models: names of archives in the store, with or without ``.mar``; none: the server starts empty.
        config: TorchServe settings.
        store: folder of archives; the configuration's ``model_store`` when None.
        folder: the state folder.
        port: first of five consecutive ports, instead of the configuration's.
        timeout: seconds until all models must be ready.
        python: interpreter of the server and its workers.
        settings: keys of ``config.properties`` that override the configuration's.

    Raises:
        OperationError: the server cannot start, or a model is refused; nothing is left running.
    """
    folder = Path(folder).absolute()
    names = [name.removesuffix(".mar") for name in models]
    config = find_config(config)
    properties = read_properties(config) | dict(settings or {})
    store = Path(store).absolute() if store is not None else find_store(config, properties)
    for name in names:
        check_archive(store / f"{name}.mar")
    if running := find(folder):
        command = hints.command("serve", "stop", "--state", folder)
        raise OperationError(f"already running with pid {running.pid}; stop it first: {command}")
    if stale := _recorded(folder):
        stop(stale)  # it ended without removing its temporary files
    addresses = read_addresses(properties)
    addresses = addresses if port is None else addresses.shifted(port)
    if taken := addresses.taken():
        raise OperationError(occupied(taken))
    overrides = {
        **(settings or {}),
        **addresses.as_properties(),
        "model_store": str(store),
        # A URI: TorchServe splits the arguments at spaces, and a path may contain some.
        "vmargs": properties.get("vmargs", "").replace("serving/log4j2.xml", LOG_CONFIG.as_uri()),
    }
    server = _launch(names, config, overrides, addresses, store, folder, python, properties)
    try:
        logger.info(f"started TorchServe, pid {server.pid}, logs in {server.logs}")
        deadline = time.monotonic() + timeout
        if not names:
            wait_until_listening(server, deadline)
        for name in names:
            wait_until_ready(server, name, deadline)
            logger.info(f"{name} is READY")
    except BaseException:
        stop(server)
        raise
    return server


def stop_unrecorded(folder: Path, timeout: float = 30) -> int | None:
    """Stops a server of which its state folder has no record, because the folder or the record was deleted.

    Returns:
        Its pid; None when there is no such server.
    """
    process = front_end(folder)
    if process is None:
        return None
    environment = process.environ()
    _end(process, timeout)
    # Only Marquee sets this, and it gives the server its own temporary folder.
    if environment.get("LOG_LOCATION") == str(Path(folder).absolute() / "logs"):
        shutil.rmtree(environment["TMPDIR"], ignore_errors=True)
        (Path(folder) / "key_file.json").unlink(missing_ok=True)
    return process.pid


def stop(server: Server, timeout: float = 30) -> None:
    """Stops the server and its workers, and removes its temporary files and tokens; the logs are kept."""
    process = server._process()
    if process is not None:
        _end(process, timeout)
    shutil.rmtree(server.temporary, ignore_errors=True)
    for name in (_STATE_FILE, "key_file.json"):
        (server.folder / name).unlink(missing_ok=True)


def _end(process: psutil.Process, timeout: float) -> None:
    """Terminates a front end and its workers, and kills those that have not ended after ``timeout`` seconds."""
    family = [process, *_children(process)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout)
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, 10)


def _launch(
    names: Sequence[str],
    config: Path,
    overrides: dict[str, str],
    addresses: Addresses,
    store: Path,
    folder: Path,
    python: str,
    properties: dict[str, str],
) -> Server:
    environment = java_environment()
    folder.mkdir(parents=True, exist_ok=True)
    logs = folder / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    override_lines = "\n".join(f"{key}={value}" for key, value in overrides.items())
    effective = folder / CONFIG_NAME
    effective.write_text(f"{Path(config).read_text('utf-8')}\n# Set by this start:\n{override_lines}\n", "utf-8")
    # Short on purpose: the workers' sockets are in it, and a socket's path has at most 107 bytes.
    temporary = Path(tempfile.mkdtemp(prefix="ts-"))
    environment |= {
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
    }
    environment.pop("TS_CONFIG_FILE", None)  # it would override --ts-config
    command = [python, "-m", "ts.model_server", "--start", "--ncs", "--ts-config", str(effective)]
    command += ["--models", *(f"{name}={name}.mar" for name in names)] if names else []
    (folder / "key_file.json").unlink(missing_ok=True)
    pid_file = temporary / ".model_server.pid"
    with open(logs / "console.log", "wb") as console:
        # A new session, so that Ctrl-C in this terminal does not reach the server.
        launcher = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=console, stderr=console, start_new_session=True
        )
        try:
            launcher.wait()
        except BaseException:
            # Interrupted while launching: the launcher may finish, so that its pid file says which server to kill.
            launcher.wait(timeout=30)
            if pid_file.is_file():
                psutil.Process(int(pid_file.read_text())).kill()
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    if launcher.returncode != 0 or not pid_file.is_file():
        shutil.rmtree(temporary, ignore_errors=True)
        raise OperationError(f"TorchServe did not start: {last_line(logs / 'console.log')}; see {logs}")
    pid = int(pid_file.read_text())
    try:
        create_time = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OperationError(f"TorchServe ended at once: {last_line(logs / 'console.log')}; see {logs}") from error
    server = Server(
        folder=folder,
        pid=pid,
        create_time=create_time,
        addresses=addresses,
        models=tuple(names),
        store=store,
        temporary=temporary,
        authorized=properties.get("disable_token_authorization", "false") != "true",
    )
    server.save()
    return server


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def describe(server: Server) -> dict[str, Any]:
    """The running server: process, addresses, and each model with its version and the state of its workers."""
    client = server.client(timeout=10)
    models = []
    for entry in client.list_models():
        for version in client.describe(entry["modelName"], "all"):
            models.append(
                {
                    "name": version["modelName"],
                    "version": version["modelVersion"],
                    "workers": [worker["status"] for worker in version["workers"]],
                }
            )
    return {"running": True, "pid": server.pid, "addresses": asdict(server.addresses), "models": models}


def connect(folder: Path = DEFAULT_STATE, config: Path = DEFAULT_CONFIG, timeout: float = 120) -> Client:
    """A client for the server of the state folder, else for one that ``torchserve --start`` started in this folder.

    Raises:
        OperationError: neither the state folder nor the configuration says where a server could be.
    """
    if server := find(folder):
        return server.client(timeout)
    if Path(config) != DEFAULT_CONFIG:
        find_config(config)
    key_file = Path("key_file.json").absolute()
    properties = read_properties(config) if Path(config).is_file() else {}
    authorized = properties.get("disable_token_authorization", "false") != "true"
    if not properties or (authorized and not key_file.is_file()):
        command = hints.command("serve", "start", "NAME")
        raise OperationError(f"no server is running from {folder}; start one: {command}, or name its --state")
    return Client.of(read_addresses(properties), KeyFile(key_file) if authorized else StaticToken(None), timeout)
