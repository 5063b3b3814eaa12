"""The record of a running server in its state folder, ``server.json``."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from marquee.process_start import start_of
from marquee.serving.answers import largest_request
from marquee.serving.client import Client
from marquee.serving.defaults import DEFAULT_STATE
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile, StaticToken
from marquee.serving.processes import CONFIG_NAME
from marquee.serving.settings import Addresses
from marquee.serving.trust import Trust

STATE_FILE = "server.json"


@dataclass(frozen=True)
class Server:
    """A server that :func:`marquee.serving.server.start` started."""

    folder: Path
    pid: int
    """Process ID of the Java front end; the workers are its child processes."""
    started: str
    """By :func:`marquee.process_start.start_of`: the pid alone may have been reused by another process."""
    addresses: Addresses
    models: tuple[str, ...]
    """As they were named: ``photos``, or ``photos=1.0`` for a version that is not the one packaged last."""
    store: Path
    temporary: Path
    """TorchServe's folder for unpacked archives and sockets; removed by :func:`marquee.serving.server.stop`."""
    authorized: bool
    """False when the configuration disables access tokens."""
    trust: Trust = field(default_factory=Trust)

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.folder / "logs"

    def is_running(self) -> bool:
        """True while the front end's process lives."""
        process = self.process()
        try:
            return process is not None and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def process(self) -> psutil.Process | None:
        """The front end's process; None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process if start_of(self.pid) == self.started else None
        except psutil.NoSuchProcess:
            return None

    def client(self, timeout: float = 120) -> Client:
        """A client with this server's addresses and tokens."""
        keys = KeyFile(self.folder / "key_file.json") if self.authorized else StaticToken(None)
        return Client.of(self.addresses, keys, timeout, self.trust, largest_request(self.folder / CONFIG_NAME))

    def save(self) -> None:
        """Writes ``server.json``, in one step: whoever reads it finds all of it, or nothing."""
        paths = {name: str(getattr(self, name)) for name in ("folder", "store", "temporary")}
        target = self.folder / STATE_FILE
        temporary = target.with_name(f".{STATE_FILE}.partial")
        try:
            temporary.write_text(json.dumps({**asdict(self), **paths}, indent=2) + "\n", "utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def find(folder: Path = DEFAULT_STATE) -> Server | None:
    """The running server of a state folder, or None.

    Raises:
        OperationError: this user may not read the record.
    """
    server = recorded(folder)
    return server if server is not None and server.is_running() else None


def recorded(folder: Path) -> Server | None:
    """The server that ``server.json`` names, which may have died since.

    Raises:
        OperationError: this user may not read it.
    """
    path = Path(folder) / STATE_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
        return Server(
            folder=Path(document["folder"]),
            pid=document["pid"],
            started=document["started"],
            addresses=Addresses(**document["addresses"]),
            models=tuple(document["models"]),
            store=Path(document["store"]),
            temporary=Path(document["temporary"]),
            authorized=document["authorized"],
            trust=Trust(**document.get("trust", {})),
        )
    except PermissionError as error:
        raise OperationError(
            f"{path}: {os.strerror(error.errno or 0)}; it belongs to another user: ask that user, or name a folder of "
            "your own with --state"
        ) from error
    except (OSError, ValueError, KeyError, TypeError):
        return None
