"""When a process has started, by which a process is told from another one that has got its pid since."""

from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def start_of(pid: int) -> str | None:
    """The start of a process as a text; None when there is no such process, or nothing here can tell.

    On Linux it is the same whenever it is asked for: the id of the boot, and the clock ticks from there to the start
    (proc_pid_stat(5)). ``psutil.Process.create_time`` gives a time of day instead: it adds the time of the boot, which
    the kernel computes from the clock as it is now, so it moves by whole seconds when the clock is set, or when a
    virtual machine is resumed.
    """
    if (_PROC / "self" / "stat").exists():
        return _start_in_proc(pid)
    try:
        import psutil  # takes a while, and every command imports this module
    except ImportError:
        return None
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _start_in_proc(pid: int) -> str | None:
    boot = ""
    with suppress(OSError):  # some sandboxes have none
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    try:
        # The second field is the command's name in brackets, which may contain anything; the start is the 22nd.
        ticks = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return f"{boot}/{ticks}"
