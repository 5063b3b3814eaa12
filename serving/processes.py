"""Finds TorchServe's processes: the workers of a server, and what is left where no record tells of a server."""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from marquee import hints
from marquee.serving.errors import OperationError

_MAIN_CLASS = "org.pytorch.serve.ModelServer"
_LAUNCHER = "ts.model_server"
_WORKER = "model_service_worker.py"
CONFIG_NAME = "config.properties"
"""Name of the configuration file that a start writes into its state folder; it is in the front end's command line."""
_SECONDS_TO_FOLLOW = 3.0
"""What a worker has after its front end has ended."""
_SECONDS_TO_VANISH = 5.0
"""How long to wait for PID 1 to take the pids of ended processes off the list, for whoever looks at it next."""


def left_over(folder: Path) -> list[psutil.Process]:
    """The TorchServe processes that belong to a state folder, whether the folder still exists or not.

    They are the front end, which names its configuration file, and workers, also those that a killed front end has left
    behind: only Marquee sets ``LOG_LOCATION`` to the folder's logs, and they inherit it.
    """
    folder = Path(folder).absolute()
    configs = {str(path / CONFIG_NAME) for path in (folder, folder.resolve())}
    logs = {str(path / "logs") for path in (folder, folder.resolve())}
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        arguments = process.info["cmdline"] or []
        if process.info["status"] == psutil.STATUS_ZOMBIE or not _is_torchserve(arguments):
            continue
        if configs & set(arguments) or _environment(process).get("LOG_LOCATION") in logs:
            found.append(process)
    return found


def is_front_end(process: psutil.Process) -> bool:
    """Whether it is the Java process of a server."""
    try:
        return _MAIN_CLASS in process.cmdline()
    except psutil.Error:
        return False


def describe_processes(processes: list[psutil.Process]) -> str:
    """``pid 12 (front end), pid 13 (worker)``."""
    return ", ".join(
        f"pid {process.pid} ({'front end' if is_front_end(process) else 'worker'})" for process in processes
    )


def end_left_over(folder: Path, timeout: float = 30) -> list[int]:
    """Ends all processes of :func:`left_over`, and removes their temporary folders and tokens; returns the pids.

    Raises:
        OperationError: they belong to another user.
    """
    processes = left_over(folder)
    temporaries = [_environment(process).get("TMPDIR") for process in processes]
    end(processes, timeout)
    for temporary in filter(None, temporaries):
        if Path(temporary).name.startswith("ts-"):
            shutil.rmtree(temporary, ignore_errors=True)
    if processes:
        (Path(folder) / "key_file.json").unlink(missing_ok=True)
    return [process.pid for process in processes]


def end(processes: list[psutil.Process], timeout: float = 30) -> None:
    """Terminates processes and their children, and kills those that have not ended after ``timeout`` seconds.

    Raises:
        OperationError: one of them belongs to another user.
    """
    started = [child for process in processes for child in children(process)]
    for process in processes:
        try:
            process.terminate()
            process.resume()  # a process that was stopped would not notice
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise OperationError(
                f"pid {process.pid} belongs to {process.username()}; only that user, or root, can end it"
            ) from error
    end_at_once(_still_running(processes, timeout))
    # A front end ends its workers; one that had to be killed, or was starting one just then, leaves them.
    end_at_once(_still_running(started, _SECONDS_TO_FOLLOW))
    psutil.wait_procs([*processes, *started], _SECONDS_TO_VANISH)


def end_at_once(processes: list[psutil.Process]) -> None:
    """Kills processes, and waits until they have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _still_running(processes, 10)


def _still_running(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Waits for processes to end; those that have not.

    One that has ended and that nobody has asked for its exit code, as where PID 1 of a container does not do so, has
    ended for this purpose.
    """
    deadline, alive = time.monotonic() + seconds, list(processes)
    while alive := [process for process in alive if _is_running(process)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alive


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children(process: psutil.Process) -> list[psutil.Process]:
    """All processes that it has started, and those that they have started."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def worker_pids(front_end: int) -> set[int]:
    """The workers of a front end.

    Only its own children: what a worker starts has the worker's command line for a moment.
    """
    try:
        started = psutil.Process(front_end).children()
    except psutil.NoSuchProcess:
        return set()
    return {process.pid for process in started if any(part.endswith(_WORKER) for part in _arguments(process))}


def worker_state(worker: Mapping[str, Any]) -> str:
    """The status of a worker as the management API reports it, unless its process says otherwise.

    Returns:
        The API's word, such as ``READY``; ``DEAD`` or ``STOPPED`` where no such process runs.
    """
    status, pid = str(worker["status"]), worker.get("pid")
    if status != "READY" or not isinstance(pid, int) or pid <= 0:
        return status
    try:
        state = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return "DEAD"
    except psutil.AccessDenied:
        return status
    if state in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return "DEAD"
    return "STOPPED" if state in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP) else status


class WorkerDeaths:
    """Counts the workers of a front end that have ended.

    Args:
        front_end: its process ID.
        ignored: workers that are not counted, because they belong to other models.
    """

    def __init__(self, front_end: int, ignored: Collection[int] = ()) -> None:
        self._front_end = front_end
        self._ignored = frozenset(ignored)
        self._seen: set[int] = set()

    def count(self) -> int:
        """Workers that were running at an earlier call, and are no longer."""
        running = worker_pids(self._front_end)
        self._seen |= running - self._ignored
        return len(self._seen - running)


def occupied(addresses: list[str]) -> str:
    """A message that names the process that listens on addresses meant for a server, and says what to do about it."""
    ports = {urlsplit(address if "://" in address else f"//{address}").port for address in addresses}
    address_list = ", ".join(addresses)
    predicate = f"listens on {address_list} already; stop it, or choose ports with --port"
    for process in _listeners(ports):
        arguments = _arguments(process)
        configs = [Path(argument) for argument in arguments if argument.endswith(f"/{CONFIG_NAME}")]
        if _MAIN_CLASS in arguments and configs:
            stop = hints.command("serve", "stop", "--state", configs[0].parent)
            return f"a TorchServe with pid {process.pid} listens on {address_list} already; stop it: {stop}"
        return f"{process.name()} with pid {process.pid} {predicate}"
    return f"a process {predicate}"


def _listeners(ports: set[int | None]) -> Iterator[psutil.Process]:
    """The processes that listen on one of the ports and are visible to this user."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS, without root
        return
    pids = {
        socket.pid
        for socket in connections
        if socket.status == psutil.CONN_LISTEN and socket.pid and socket.laddr and socket.laddr.port in ports
    }
    for pid in sorted(pids):
        try:
            yield psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue


def _is_torchserve(arguments: list[str]) -> bool:
    return _MAIN_CLASS in arguments or _LAUNCHER in arguments or any(part.endswith(_WORKER) for part in arguments)


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
