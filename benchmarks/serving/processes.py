"""A contender's process and all that it started: started, watched, stopped by pid."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.results import Values
from marquee.training.core.errors import TrainingError

_STOP_SECONDS = 15


class ContenderError(TrainingError):
    """A contender did not start, answers wrongly or not at all; the benchmark goes on without it and says so."""


@contextmanager
def started(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None, pipes: bool = False
) -> Iterator[psutil.Popen]:
    """Runs ``command`` for the length of the block, in a session of its own; ``pipes`` are its stdin and stdout."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        process = psutil.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(root: psutil.Popen) -> None:
    """Ends the process and its descendants: politely, then not."""
    # Listed before anyone ends: an orphan would be no descendant any more.
    members = family(root)
    root.terminate()
    psutil.wait_procs([root], _STOP_SECONDS)
    _, alive = psutil.wait_procs(members, 2)
    for member in {*alive, *family(root)}:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(alive, _STOP_SECONDS)
    root.wait()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process and its living descendants; none when it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def cpu_seconds(root: psutil.Process) -> float:
    """User and system time that the family has used so far; what ended children used is lost."""
    total = 0.0
    for member in family(root):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def other_seconds(root: psutil.Process) -> float:
    """CPU time that the machine has spent so far on others than the family and this process with its ended children."""
    everyone = psutil.cpu_times()
    idle = everyone.idle + getattr(everyone, "iowait", 0.0)
    # Linux counts a guest's time within user time, too.
    busy = sum(everyone) - idle - getattr(everyone, "guest", 0.0) - getattr(everyone, "guest_nice", 0.0)
    return busy - cpu_seconds(root) - sum(os.times()[:4])


def memory(root: psutil.Process) -> Values:
    """What the family holds now, in MB of 1e6 bytes.

    Returns:
        ``rss_mb``, resident sets, in which shared pages count once for each process; and ``pss_mb``, proportional sets.
    """
    found = {"rss_mb": 0.0, "pss_mb": 0.0}
    for member in family(root):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            full = member.memory_full_info()
            found = {"rss_mb": found["rss_mb"] + full.rss / 1e6, "pss_mb": found["pss_mb"] + full.pss / 1e6}
    return found


def last_line(log: Path) -> str:
    """The last thing that a process said."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
