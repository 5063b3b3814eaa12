"""A server's process and all that it started: started, watched, stopped by pid."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.errors import ContenderError

_STOP_SECONDS = 15


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of all processes together, in MB (1e6 bytes)."""

    rss: float
    """Resident sets; what processes share counts once for each."""
    pss: float
    """Proportional sets: shared pages divided among those who share them."""


@contextmanager
def started(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Runs ``command`` for the length of the block, in a session of its own, its output in ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    root = psutil.Process(process.pid)
    try:
        yield root
    finally:
        stop(root)
        process.wait()


def stop(root: psutil.Process) -> None:
    """Ends the process and its descendants: politely, then not."""
    # Listed before anyone ends: an orphan would be no descendant any more.
    members = family(root)
    if root.is_running():
        root.terminate()
    _, alive = psutil.wait_procs([root], _STOP_SECONDS)
    _, alive = psutil.wait_procs(members, 2)
    for member in {*alive, *family(root)}:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, _STOP_SECONDS)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process and its living descendants; none when it has ended."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(root: psutil.Process) -> float:
    """User and system time that the family has used so far; what ended children used is lost."""
    total = 0.0
    for member in family(root):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def other_seconds(root: psutil.Process) -> float:
    """CPU time that the machine has spent so far on others than the family and this process with its ended children."""
    everyone = psutil.cpu_times()
    idle = everyone.idle + getattr(everyone, "iowait", 0.0)
    # Linux counts a guest's time within user time, too.
    busy = sum(everyone) - idle - getattr(everyone, "guest", 0.0) - getattr(everyone, "guest_nice", 0.0)
    return busy - cpu_seconds(root) - sum(os.times()[:4])


def memory(root: psutil.Process) -> Memory:
    """What the family holds now.

    Raises:
        ContenderError: it has ended.
    """
    rss = pss = 0
    for member in family(root):
        try:
            full = member.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        rss += full.rss
        pss += full.pss
    if rss == 0:
        raise ContenderError("its process has ended")
    return Memory(rss=rss / 1e6, pss=pss / 1e6)


def last_line(log: Path) -> str:
    """The last thing that a process said."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
