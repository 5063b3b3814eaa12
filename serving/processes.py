"""Finds TorchServe's processes where no record tells of them: a state folder was deleted, or somebody else's server."""

from pathlib import Path
from urllib.parse import urlsplit

import psutil

from marquee import hints

_MAIN_CLASS = "org.pytorch.serve.ModelServer"
CONFIG_NAME = "config.properties"
"""Of the configuration that a start writes into its state folder; the front end's command line names it."""


def front_end(folder: Path) -> psutil.Process | None:
    """The TorchServe front end that was started with a state folder, whether the folder is still there or not."""
    config = str(Path(folder).absolute() / CONFIG_NAME)
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if _MAIN_CLASS in arguments and config in arguments:
            return process
    return None


def occupied(addresses: list[str]) -> str:
    """Who listens on addresses that a server was to have, and what to do about it, in one sentence."""
    ports = {urlsplit(address if "://" in address else f"//{address}").port for address in addresses}
    shown = ", ".join(addresses)
    rest = f"listens on {shown} already; stop it, or choose ports with --port"
    pids = {pid for pid, port in _listeners() if port in ports}
    for process in map(_running, sorted(pids)):
        if process is None:
            continue
        arguments = process.cmdline()
        configs = [Path(one) for one in arguments if one.endswith(f"/{CONFIG_NAME}")]
        if _MAIN_CLASS in arguments and configs:
            stop = hints.command("serve", "stop", "--state", configs[0].parent)
            return f"a TorchServe with pid {process.pid} listens on {shown} already; stop it: {stop}"
        return f"{process.name()} with pid {process.pid} {rest}"
    return f"something {rest}"


def _listeners() -> list[tuple[int, int]]:
    """(pid, port) of every listening socket whose process may be seen."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS, without root
        return []
    listening = (one for one in connections if one.status == psutil.CONN_LISTEN and one.pid)
    return [(one.pid or 0, one.laddr.port) for one in listening if one.laddr]


def _running(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
