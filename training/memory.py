"""How much memory there is, and how much a process has used."""

import resource
import sys
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_STATUS = Path("/proc/self/status")


def available_bytes() -> int:
    """What this process could still use without swapping or being killed: the machine's free memory or the cgroup's."""
    limits = [psutil.virtual_memory().available, cgroup_available_bytes()]
    return min(limit for limit in limits if limit is not None)


def cgroup_available_bytes(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int | None:
    """What the process's memory cgroups leave (v2 and v1, every level up to the root); None where there is no limit.

    Args:
        root: where cgroups are mounted.
        own: lists the process's groups, see cgroups(7).
    """
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return None
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names, mount = ("memory.max", "memory.current", "inactive_file"), root
        elif "memory" in controllers.split(","):
            names, mount = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), root / "memory"
        else:
            continue
        # In a container the path may be the host's, and only the mount's root is there.
        folder = mount / path.lstrip("/")
        for level in (folder, *folder.parents):
            left.append(_left(level, *names))
            if level == mount:
                break
    return min((value for value in left if value is not None), default=None)


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit less usage, where file cache that the kernel would drop does not count as used."""
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such level, or the word "max"
        return None
    return max(0, most - used + int(stat.get(cache, 0)))


def peak_bytes() -> int:
    """The most physical memory that this process has held at once."""
    # On Linux ru_maxrss outlives exec, so a child would start with its parent's peak; VmHWM belongs to the program.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
