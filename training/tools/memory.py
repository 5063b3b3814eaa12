"""Available memory, and the peak memory of a process."""

import resource
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS_CGROUPS = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")


def available_bytes() -> int:
    """Memory that this process can still use without swapping or being killed: that of the machine or of its cgroup."""
    import psutil  # a GPU's memory is measured without it

    limits = [psutil.virtual_memory().available, cgroup_available_bytes()]
    return min(limit for limit in limits if limit is not None)


def cgroup_available_bytes(root: Path = _CGROUPS, membership: Path = _PROCESS_CGROUPS) -> int | None:
    """Memory left by the limits of the process's cgroups (v2 and v1, all levels up to the root); None without a limit.

    Args:
        root: where cgroups are mounted.
        membership: the file that lists the process's cgroups, see cgroups(7).
    """
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:
        return None
    available = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, mount = ("memory.max", "memory.current", "inactive_file"), root
        elif "memory" in controllers.split(","):
            names, mount = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), root / "memory"
        else:
            continue
        # In a container, the path may be that of the host, and only the root of the mount exists.
        folder = mount / path.lstrip("/")
        for level in (folder, *folder.parents):
            available.append(_remaining(level, *names))
            if level == mount:
                break
    return min((value for value in available if value is not None), default=None)


def _remaining(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit minus usage, not counting the file cache that the kernel can reclaim; None without a limit."""
    try:
        maximum, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such level, or the word "max"
        return None
    return max(0, maximum - used + int(stat.get(cache, 0)))


def peak_bytes() -> int:
    """Peak physical memory of this process, in bytes."""
    # On Linux, ru_maxrss survives exec, so a child would start with its parent's peak; VmHWM is reset.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
