"""Waits until a server and its models are ready, or says why they are not."""

import time
from pathlib import Path
from typing import Protocol

from marquee.serving.client import Client
from marquee.serving.errors import OperationError
from marquee.serving.logs import find_refusal, last_line, last_trace, load_failure
from marquee.serving.processes import WorkerDeaths, worker_state

_POLL_SECONDS = 0.3
_MOST_DEATHS = 2
"""TorchServe goes on restarting a worker for minutes; the second end shows that the first was no accident."""
_MOST_ABSENT = 5
"""Answers in a row that do not know the model."""


class StartedServer(Protocol):
    """What waiting for a server needs to know about it."""

    @property
    def pid(self) -> int:
        """Process ID of the front end."""

    @property
    def logs(self) -> Path:
        """Folder of the log files."""

    def is_running(self) -> bool:
        """True while its process lives."""

    def client(self, timeout: float = 120) -> Client:
        """A client with its addresses and tokens."""


def ready_workers(client: Client, name: str, version: str | None = None, *, here: bool = False) -> int:
    """The number of READY workers of a version.

    Args:
        client: of the server.
        name: of the model.
        version: of the model; None: the default version.
        here: the server runs on this machine: a worker counts only while its process runs, too.
    """
    (description,) = client.describe(name, version)
    states = (worker_state(worker) if here else worker["status"] for worker in description["workers"])
    return sum(state == "READY" for state in states)


def wait_for_workers(client: Client, name: str, workers: int, version: str | None = None, timeout: float = 120) -> None:
    """Waits until ``workers`` workers are READY: TorchServe answers a request to scale too early if one has died.

    Raises:
        OperationError: another number of workers is READY at the end of ``timeout``.
    """
    deadline = time.monotonic() + timeout
    while (ready := ready_workers(client, name, version)) != workers:
        if time.monotonic() > deadline:
            raise OperationError(f"{ready} of {workers} workers of {name} are READY; see the server's model_log.log")
        time.sleep(_POLL_SECONDS)


def wait_until_listening(server: StartedServer, deadline: float) -> None:
    """Waits until the management API answers.

    Raises:
        OperationError: the server has ended, or does not answer by ``deadline`` (of ``time.monotonic``).
    """
    client = server.client(timeout=30)
    while time.monotonic() < deadline:
        _check_running(server)
        try:
            client.list_models()
            return
        except OperationError:
            time.sleep(_POLL_SECONDS)
    raise OperationError(f"TorchServe does not answer; see {server.logs}")


def wait_until_ready(
    server: StartedServer,
    name: str,
    deadline: float,
    *,
    version: str | None = None,
    workers: int = 1,
    log_start: int = 0,
    deaths: WorkerDeaths | None = None,
) -> None:
    """Waits until a model's workers are READY.

    The management API and the processes are asked, because ``/ping`` reports a worker that crashes again and again as
    healthy.

    Args:
        server: the server.
        name: of a model that is registered, or is about to be.
        deadline: of ``time.monotonic``.
        version: the model's version; None: the default version.
        workers: number of workers that must be READY.
        log_start: offset in ``model_log.log``, in bytes; what comes before it is about other models.
        deaths: counts the workers that end; None: all of the server's.

    Raises:
        OperationError: the model is refused or cannot be loaded, a worker has died twice, the server has ended, or
            fewer workers are READY in time.
    """
    client, log = server.client(timeout=30), server.logs / "model_log.log"
    deaths = deaths or WorkerDeaths(server.pid)
    absent, said = 0, ""
    while time.monotonic() < deadline:
        if refusal := find_refusal(log, name, log_start):
            raise OperationError(refusal)
        _check_running(server)
        if deaths.count() >= _MOST_DEATHS and not find_refusal(log, name, log_start):
            raise OperationError(
                f"{name} is not served: its worker ended twice while it was starting: {last_trace(log, log_start)}; "
                f"see {log}"
            )
        try:
            if ready_workers(client, name, version, here=True) >= workers:
                return
        except OperationError as error:  # not listening yet, or the model is not registered yet
            said = f" ({error})"
            absent = absent + 1 if _is_absent(client, name) else 0
        if absent >= _MOST_ABSENT:
            why = load_failure(server.logs / "ts_log.log", name)
            raise OperationError(f"{name} is not served: {why}; see {server.logs / 'ts_log.log'}")
        time.sleep(_POLL_SECONDS)
    raise OperationError(f"{name} was not READY in time{said}; see {log}")


def _is_absent(client: Client, name: str) -> bool:
    """Whether the server is up and does not have the model: it registers models before it listens."""
    try:
        return all(entry["modelName"] != name for entry in client.list_models())
    except OperationError:
        return False


def _check_running(server: StartedServer) -> None:
    if not server.is_running():
        raise OperationError(f"TorchServe ended: {last_line(server.logs / 'console.log')}; see {server.logs}")
