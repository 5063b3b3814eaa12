"""Waits until a server and its models are ready, according to the management API, or says why they are not."""

import re
import time
from pathlib import Path
from typing import Protocol

from marquee.serving.client import Client
from marquee.serving.errors import OperationError

_POLL_SECONDS = 0.3


class StartedServer(Protocol):
    """What waiting for a server needs to know about it."""

    @property
    def logs(self) -> Path:
        """Folder of the log files."""

    def is_running(self) -> bool:
        """True while its process lives."""

    def client(self, timeout: float = 120) -> Client:
        """A client with its addresses and tokens."""


def ready_workers(client: Client, name: str, version: str | None = None) -> int:
    """The number of READY workers of a version; None: of the default version."""
    (description,) = client.describe(name, version)
    return sum(worker["status"] == "READY" for worker in description["workers"])


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


def wait_until_ready(server: StartedServer, name: str, deadline: float, workers: int = 1, log_start: int = 0) -> None:
    """Waits until a model's workers are READY.

    The management API is asked, because ``/ping`` reports a worker that crashes again and again as healthy.

    Args:
        server: the server.
        name: of a model that is registered, or is about to be.
        deadline: of ``time.monotonic``.
        workers: number of workers that must be READY.
        log_start: offset in ``model_log.log``, in bytes; what comes before it is about other models.

    Raises:
        OperationError: the model is refused, the server has ended, or fewer workers are READY in time.
    """
    client, log = server.client(timeout=30), server.logs / "model_log.log"
    while time.monotonic() < deadline:
        if refusal := _find_refusal(log, name, log_start):
            raise OperationError(refusal)
        _check_running(server)
        try:
            if ready_workers(client, name) >= workers:
                return
        except OperationError:
            pass  # not listening yet, or the model is not registered yet
        time.sleep(_POLL_SECONDS)
    raise OperationError(f"{name} was not READY in time; see {log}")


def last_line(path: Path) -> str:
    """The last non-empty line of a log."""
    lines = [line for line in path.read_text("utf-8", "replace").splitlines() if line.strip()] if path.is_file() else []
    return lines[-1] if lines else "no output"


def _check_running(server: StartedServer) -> None:
    if not server.is_running():
        raise OperationError(f"TorchServe ended: {last_line(server.logs / 'console.log')}; see {server.logs}")


def _find_refusal(log: Path, name: str, start: int) -> str | None:
    """The reason that the handler gave for not serving ``name``, from the worker's log."""
    if not log.is_file():
        return None
    matches = re.findall(r"RuntimeError: (.+)", log.read_bytes()[start:].decode("utf-8", "replace"))
    # The worker repeats the error as "500 - Unknown exception" when it gives up.
    reasons = [line for line in matches if not re.match(r"\d{3} - ", line)]
    refusals = [line for line in reasons if line.startswith(f"{name} is not served")] or reasons
    return str(refusals[0]) if refusals else None
