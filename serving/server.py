"""Starts, describes and stops TorchServe.

The server runs in a state folder (default ``.torchserve``), which holds all of its files::

    .torchserve/
      server.json         process and addresses
      config.properties   the settings in use: config.properties with the changes of this start
      key_file.json       access tokens, written by TorchServe, mode 0600
      logs/               console.log, ts_log.log, model_log.log
      lock                while a command starts or stops the server: which one
"""

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from marquee import hints
from marquee.locks import LockedError, locked
from marquee.serving.answers import largest_request
from marquee.serving.client import Client
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE, find_config, settings_folder
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile, StaticToken
from marquee.serving.launch import Launch, launch
from marquee.serving.prepare import prepare
from marquee.serving.processes import (
    WorkerDeaths,
    children,
    describe_processes,
    end,
    end_left_over,
    is_front_end,
    left_over,
    occupied,
    worker_state,
)
from marquee.serving.properties import is_true, with_absolute_paths
from marquee.serving.readiness import wait_until_listening, wait_until_ready
from marquee.serving.record import STATE_FILE, Server, find, recorded
from marquee.serving.settings import read_addresses, read_properties
from marquee.serving.store import Reference
from marquee.serving.trust import trust_of

__all__ = [
    "Server",
    "connect",
    "describe",
    "describe_left_over",
    "exclusive",
    "find",
    "start",
    "start_prepared",
    "stop",
    "stop_left_over",
]

logger = logging.getLogger(__name__)


def start(
    models: Sequence[str],
    *,
    config: Path = DEFAULT_CONFIG,
    store: Path | None = None,
    folder: Path = DEFAULT_STATE,
    port: int | None = None,
    timeout: float = 300,
    python: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Starts TorchServe with the named models and waits until each has a worker that is READY.

    Args:
        models: this and the others but ``timeout``: see :func:`marquee.serving.prepare.prepare`.
        config: TorchServe settings.
        store: folder of archives.
        folder: the state folder.
        port: first of five consecutive ports.
        timeout: seconds until all models must be ready.
        python: interpreter of the server and its workers; this process's own when None.
        settings: keys of ``config.properties``.

    Raises:
        OperationError: the server cannot start, a model is refused, or another command works in the state folder;
            nothing is left running.
    """
    wanted = prepare(models, config=config, store=store, folder=folder, port=port, python=python, settings=settings)
    return start_prepared(wanted, timeout)


def start_prepared(wanted: Launch, timeout: float = 300, doing: str = "marquee serve start") -> Server:
    """Starts what was prepared; ``doing`` is what others are told who want to work in the state folder.

    Raises:
        OperationError: see :func:`start`.
    """
    with exclusive(wanted.folder, doing):
        _make_way(wanted.folder, read_addresses(dict(wanted.properties)).taken())
        server = launch(wanted)
        try:
            logger.info(f"started TorchServe, pid {server.pid}, logs in {server.logs}")
            _wait(server, wanted.models, time.monotonic() + timeout)
        except BaseException:
            stop(server)
            raise
    return server


@contextmanager
def exclusive(folder: Path, doing: str) -> Iterator[None]:
    """Holds the lock of a state folder.

    Raises:
        OperationError: another command works in it.
    """
    try:
        with locked(folder, doing) as before:
            if before is not None:
                logger.info(f"{folder}: taken over from {before}, which ended without finishing")
            yield
    except LockedError as error:
        raise OperationError(str(error)) from error


def _make_way(folder: Path, taken: list[str]) -> None:
    """Makes sure that no server runs from the folder, and removes what one that has ended has left there.

    Raises:
        OperationError: one runs, or something listens on the addresses.
    """
    stop_command = hints.command("serve", "stop", "--state", folder)
    if running := find(folder):
        raise OperationError(f"already running with pid {running.pid}; stop it first: {stop_command}")
    if taken:
        raise OperationError(occupied(taken))
    processes = left_over(folder)
    if any(map(is_front_end, processes)):
        raise OperationError(
            f"{folder}: {describe_processes(processes)} already run from this folder, which has no record of them; end "
            f"them first: {stop_command}"
        )
    if processes:
        logger.info(f"ending {describe_processes(processes)}, left by a server that has ended")
    if stale := recorded(folder):
        stop(stale)
    end_left_over(folder)


def _wait(server: Server, references: Sequence[Reference], deadline: float) -> None:
    if not references:
        wait_until_listening(server, deadline)
    deaths = WorkerDeaths(server.pid)
    for reference in references:
        wait_until_ready(server, reference.name, deadline, version=reference.version, deaths=deaths)
        logger.info(f"{reference} is READY")


def describe_left_over(folder: Path) -> str:
    """The processes that are left of a server whose record, or front end, is gone; empty when there are none."""
    return describe_processes(left_over(folder))


def stop_left_over(folder: Path, timeout: float = 30) -> str | None:
    """Ends the processes of which a state folder has no record: it was deleted, or the front end was killed.

    Returns:
        Which they were; None when there are none.

    Raises:
        OperationError: they belong to another user.
    """
    processes = left_over(folder)
    front_ends = [process for process in processes if is_front_end(process)]
    description = f"pid {front_ends[0].pid}" if front_ends else describe_processes(processes)
    if stale := recorded(folder):
        stop(stale, timeout)
    end_left_over(folder, timeout)
    return description or None


def stop(server: Server, timeout: float = 30) -> None:
    """Stops the server and its workers, and removes its temporary files and tokens; the logs are kept.

    Raises:
        OperationError: the server belongs to another user.
    """
    process = server.process()
    if process is not None:
        end([process], timeout)
    end_left_over(server.folder, timeout)
    shutil.rmtree(server.temporary, ignore_errors=True)
    for name in (STATE_FILE, "key_file.json"):
        (server.folder / name).unlink(missing_ok=True)


def describe(server: Server) -> dict[str, Any]:
    """The running server: process, addresses, and each model with its version and the state of its workers.

    The state is what the management API reports, unless a worker's process has died or was stopped. ``ready`` is true
    if each version with workers has one that is READY. Where the API does not answer, ``error`` says so, and the models
    are those that the server was started with.
    """
    client = server.client(timeout=10)
    facts = {"running": True, "pid": server.pid, "addresses": asdict(server.addresses)}
    models: list[dict[str, Any]] = []
    try:
        for entry in client.list_models():
            models += map(_version, client.describe(entry["modelName"], "all"))
    except OperationError as error:
        process = server.process()
        workers = len(children(process)) if process is not None else 0
        said = f"pid {server.pid} runs with {workers} child processes, and its management API gives {error}"
        names = [Reference.parse(text) for text in server.models]
        models = [{"name": model.name, "version": model.version, "workers": ["UNKNOWN"]} for model in names]
        return {**facts, "ready": False, "models": models, "error": said}
    ready = all("READY" in model["workers"] for model in models if model["workers"])
    return {**facts, "ready": ready, "models": models}


def _version(described: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": described["modelName"],
        "version": described["modelVersion"],
        "workers": [worker_state(worker) for worker in described["workers"]],
    }


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
    authorized = not is_true(properties, "disable_token_authorization")
    if not properties or (authorized and not key_file.is_file()):
        command, stop_command = (
            hints.command("serve", "start", "NAME"),
            hints.command("serve", "stop", "--state", folder),
        )
        nothing = f"no server is running from {folder}; start one: {command}, or name its --state"
        left = describe_left_over(folder)
        raise OperationError(f"{nothing}; {left} are left of one; end them: {stop_command}" if left else nothing)
    trust = trust_of(with_absolute_paths(properties, settings_folder(config)))
    keys = KeyFile(key_file) if authorized else StaticToken(None)
    return Client.of(read_addresses(properties), keys, timeout, trust, largest_request(config))
