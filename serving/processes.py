"""Finds TorchServe processes without a record: the state folder was deleted, or somebody else started the server."""

from pathlib import Path
from urllib.parse import urlsplit

import psutil

from marquee import hints

_MAIN_CLASS = "org.pytorch.serve.ModelServer"
CONFIG_NAME = "config.properties"
"""Name of the configuration file that a start writes into its state folder; it is in the front end's command line."""


def front_end(folder: Path) -> psutil.Process | None:
    """The TorchServe front end that was started with a state folder, whether the folder still exists or not."""
    config = str(Path(folder).absolute() / CONFIG_NAME)
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if _MAIN_CLASS in arguments and config in arguments:
            return process
    return None


def occupied(addresses: list[str]) -> str:
    """A message that names the process that listens on addresses meant for a server, and says what to do about it."""
    ports = {urlsplit(address if "://" in address else f"//{address}").port for address in addresses}
    address_list = ", ".join(addresses)
    predicate = f"listens on {address_list} already; stop it, or choose ports with --port"
    pids = {pid for pid, port in _listeners() if port in ports}
    for process in map(_running, sorted(pids)):
        if process is None:
            continue
        arguments = process.cmdline()
        configs = [Path(argument) for argument in arguments if argument.endswith(f"/{CONFIG_NAME}")]
        if _MAIN_CLASS in arguments and configs:
            stop = hints.command("serve", "stop", "--state", configs[0].parent)
            return f"a TorchServe with pid {process.pid} listens on {address_list} already; stop it: {stop}"
        return f"{process.name()} with pid {process.pid} {predicate}"
    return f"a process {predicate}"


def _listeners() -> list[tuple[int, int]]:
    """(pid, port) of every listening socket whose process is visible to this user."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS, without root
        return []
    listening = (socket for socket in connections if socket.status == psutil.CONN_LISTEN and socket.pid)
    return [(socket.pid or 0, socket.laddr.port) for socket in listening if socket.laddr]


def _running(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
