"""The record of a running gateway in its state folder, ``gateway.json``, and what is found where there is none."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from marquee import hints
from marquee.process_start import start_of
from marquee.serving.defaults import DEFAULT_STATE
from marquee.serving.errors import OperationError

RECORD_FILE = "gateway.json"
_UNKNOWN_STOP_SECONDS = 120.0
"""For a gateway that has no record, because it is starting or because its state folder was deleted."""


@dataclass(frozen=True, kw_only=True)
class GatewayRecord:
    """A process that ``marquee serve run`` is, in the foreground or in the background."""

    folder: Path
    """The state folder."""
    pid: int
    started: str
    """By :func:`marquee.process_start.start_of`: the pid alone may have been reused by another process."""
    http: str | None = None
    """URL of the HTTP doors; None: it only supervises TorchServe."""
    grpc: str | None = None
    """``HOST:PORT`` of the gRPC door."""
    certificate: str | None = None
    """The gateway's own certificate, as PEM, where it uses TLS."""
    asks_for_certificates: bool = False
    """Whether clients need a certificate."""
    stop_seconds: float = 60.0
    """Within which it has ended after SIGTERM."""
    checked: int = 0
    """Number of golden answers that were compared at the start, over REST and over gRPC."""

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self.folder / RECORD_FILE

    def save(self) -> None:
        """Writes ``gateway.json``, in one step: whoever reads it finds all of it, or nothing."""
        temporary = self.path.with_name(f".{RECORD_FILE}.partial")
        try:
            temporary.write_text(json.dumps({**asdict(self), "folder": str(self.folder)}, indent=2) + "\n", "utf-8")
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the file, unless it is another process's by now."""
        if (there := recorded(self.folder)) is not None and there.pid == self.pid:
            self.path.unlink(missing_ok=True)

    def process(self) -> psutil.Process | None:
        """The process; None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = start_of(self.pid) == self.started
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def recorded(folder: Path = DEFAULT_STATE) -> GatewayRecord | None:
    """The gateway that ``gateway.json`` names, which may have died since.

    Raises:
        OperationError: this user may not read it.
    """
    path = Path(folder) / RECORD_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
        return GatewayRecord(**{**document, "folder": Path(document["folder"])})
    except PermissionError as error:
        raise OperationError(
            f"{path}: {os.strerror(error.errno or 0)}; it belongs to another user: ask that user, or name a folder of "
            "your own with --state"
        ) from error
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(folder: Path = DEFAULT_STATE) -> psutil.Process | None:
    """The process of a state folder's gateway, also where the folder was deleted; None when there is none.

    Raises:
        OperationError: this user may not read the record.
    """
    record = recorded(folder)
    if record is not None and (process := record.process()) is not None:
        return process
    return next(iter(_unrecorded(Path(folder).resolve())), None)


def refuse_second(folder: Path = DEFAULT_STATE) -> None:
    """Raises OperationError where a gateway runs from the state folder, even if TorchServe does not just now."""
    if (process := running(folder)) is not None:
        command = hints.command("serve", "stop", "--state", folder)
        raise OperationError(f"already running with pid {process.pid}; stop it first: {command}")


def stop_seconds(folder: Path = DEFAULT_STATE) -> float:
    """Within which the gateway of a state folder has ended after SIGTERM, as far as is known.

    Raises:
        OperationError: this user may not read the record.
    """
    record = recorded(folder)
    return _UNKNOWN_STOP_SECONDS if record is None else record.stop_seconds


def forget(folder: Path = DEFAULT_STATE) -> None:
    """Removes the record of a gateway that has ended."""
    (Path(folder) / RECORD_FILE).unlink(missing_ok=True)


def end(process: psutil.Process, seconds: float) -> bool:
    """Ends a gateway as SIGTERM does: it answers what is under way, and stops TorchServe.

    Args:
        process: the gateway.
        seconds: after which it is killed.

    Returns:
        False when it had to be killed; TorchServe may be left then.

    Raises:
        OperationError: it belongs to another user.
    """
    try:
        process.terminate()
        process.resume()  # a process that was stopped would not notice
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        raise OperationError(
            f"pid {process.pid} belongs to {process.username()}; only that user, or root, can end it"
        ) from error
    deadline = time.monotonic() + seconds
    while _runs(process):
        if time.monotonic() > deadline:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            return False
        time.sleep(0.05)
    return True


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _unrecorded(folder: Path) -> list[psutil.Process]:
    """The processes that were called as ``serve run`` with this state folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if process.pid == os.getpid() or process.info["status"] == psutil.STATUS_ZOMBIE or not _is_run(arguments):
            continue
        with suppress(psutil.Error):
            if (Path(process.cwd()) / _state(arguments)).resolve() == folder:
                found.append(process)
    return found


def _is_run(arguments: Sequence[str]) -> bool:
    """Whether it is the command itself, not one that has it as an argument, such as timeout."""
    return "python" in Path(next(iter(arguments), "")).name and any(
        Path(verb).name in ("serve", "serve.py") and subcommand == "run" for verb, subcommand in pairwise(arguments)
    )


def _state(arguments: Sequence[str]) -> str:
    """The value of ``--state``."""
    state = str(DEFAULT_STATE)
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == "--state":
            state = value if equals else following
    return state
