"""The CPU quota of a container, from the files of Linux control groups, version 1 and 2."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_quota(process: Path = Path("/proc/self")) -> float | None:
    """The CPUs' worth of time that this process may use; None without a limit, or where the system does not tell.

    A limit of a group holds for all groups in it, so the smallest of them counts.

    Args:
        process: the folder of a process in ``/proc``.
    """
    try:
        groups = (process / "cgroup").read_text("utf-8").splitlines()
        mounts = (process / "mountinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    limits = [
        limit for folder in _folders(groups, mounts) for limit in (_version_2(folder), _version_1(folder)) if limit
    ]
    return min(limits, default=None)


def _folders(groups: list[str], mounts: list[str]) -> Iterator[Path]:
    """The folders of the process's groups and of those around them, as far as they are mounted here."""
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for kind, root, point in _mounts(mounts):
            if kind == ("cgroup" if controllers else "cgroup2"):
                yield from _upwards(point, _inside(PurePosixPath(path), root))


def _mounts(lines: list[str]) -> Iterator[tuple[str, PurePosixPath, Path]]:
    """(kind, the group at its root, where) of each mounted hierarchy with the CPU controller."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup2" or "cpu" in kind[2].split(","):
            yield kind[0], PurePosixPath(fields[3]), Path(fields[4].replace("\\040", " "))


def _inside(path: PurePosixPath, root: PurePosixPath) -> PurePosixPath:
    """A group's path below the mounted root; in a container the root often is the group."""
    try:
        return path.relative_to(root)
    except ValueError:
        # Named from outside of the container, whose own group is the root of the mount; or relative to that root.
        return PurePosixPath() if ".." in path.parts else PurePosixPath(*path.parts[1:])


def _upwards(point: Path, inside: PurePosixPath) -> Iterator[Path]:
    for part in (inside, *inside.parents):
        if (point / part).is_dir():
            yield point / part


def _version_2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return _share(quota, period or "100000")


def _version_1(folder: Path) -> float | None:
    return _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file
    return share if share > 0 else None  # -1: no limit


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
