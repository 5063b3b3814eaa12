"""A small file that only its owner may read, replaced in one step, by one writer at a time."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from marquee.serving.errors import OperationError

_PATIENCE = 30.0
"""Seconds to wait for other writers, each of which takes milliseconds."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keeps other writers of ``path`` waiting for the length of the block; its folder is made when missing.

    The lock is on a file beside it, which stays: one that is removed could be locked twice. The operating system
    releases the lock of a process that was killed.

    Raises:
        OperationError: another writer has not finished after half a minute.
        OSError: the lock file cannot be written.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _settle(handle, path.parent)
        deadline = time.monotonic() + _PATIENCE
        while not _has_locked(handle):
            if time.monotonic() > deadline:
                raise OperationError(f"{path}: another process is changing this file; try again")
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def write_private(path: Path, content: bytes) -> None:
    """Replaces ``path`` in one step by a file that its owner may read and write, and nobody else, whatever the umask.

    Raises:
        OSError: it cannot be written.
    """
    path = path.resolve()  # a link stays, and what it names is replaced
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _settle(handle, path if path.exists() else path.parent)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name is on the disk, too
    finally:
        os.close(folder)


def _settle(handle: int, pattern: Path) -> None:
    """Gives an open file its mode, whatever the umask, and what root writes the owner that it had before.

    The gateway, which should not be root, must be able to read it.
    """
    with suppress(PermissionError):  # the lock of another user, who has given it its mode; a container's root
        os.fchmod(handle, 0o600)
        if os.geteuid() == 0:
            owner = pattern.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)


def _has_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
