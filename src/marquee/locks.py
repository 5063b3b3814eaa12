"""A lock on a folder that a command writes: a second command is told who holds it.

>>> with locked(Path("runs/photos"), "marquee train"):  # doctest: +SKIP
...     train()

The lock belongs to the process, not to the file: the operating system releases it when the process ends, however it
ends, and the next command takes the folder over. The file names the owner, for the message that others get.
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from marquee.process_start import start_of

LOCK_FILE = "lock"
_BUSY = {errno.EAGAIN, errno.EACCES}
_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What a file system answers that has no locks."""
_PATIENCE = 2.0
"""Seconds to wait for a lock whose owner is dead, or has not written who it is."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that holds a lock."""

    pid: int
    started: str
    """By :func:`marquee.process_start.start_of`: the pid alone may have been reused."""
    host: str
    doing: str
    """What it does, such as ``marquee train``."""

    def __post_init__(self) -> None:
        if self.pid < 1:
            raise ValueError(f"pid: expected a process ID, got {self.pid}")

    def __str__(self) -> str:
        elsewhere = "" if self.host == platform.node() else f" on {self.host}"
        return f"pid {self.pid}{elsewhere} ({self.doing})"

    def is_alive(self) -> bool:
        """Whether it still runs; a process of another machine counts as alive, because nobody here can tell."""
        if self.host != platform.node():
            return True
        return start_of(self.pid) == self.started


class LockedError(Exception):
    """Another process works in the folder; the message is one line.

    Args:
        folder: the folder.
        owner: the process; None where the file does not say it.
    """

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        super().__init__(
            f"{folder}: {owner or 'another process'} is working in this folder; wait for it, or end it first"
        )
        self.folder, self.owner = folder, owner


@dataclass
class _Held:
    handle: int
    thread: int
    depth: int = 1


_held: dict[Path, _Held] = {}


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[Owner | None]:
    """Holds the lock of a folder, which is made when missing, for the length of the block.

    A thread that holds it already may ask again, so that a command may call another. A child process does not inherit
    it.

    Args:
        folder: the folder.
        doing: what the block does, for the message that others get: ``marquee train``.

    Yields:
        The owner before, if that process ended without releasing the lock (it was killed); otherwise None.

    Raises:
        LockedError: another process, or another thread, holds it.
        OSError: the folder or its lock file cannot be written.
    """
    path = Path(folder).resolve()
    mine = _held.get(path)
    if mine is not None and mine.thread == threading.get_ident():
        mine.depth += 1
        try:
            yield None
        finally:
            mine.depth -= 1
        return
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    handle = _acquire(Path(folder), path / LOCK_FILE)
    _held[path] = _Held(handle, threading.get_ident())
    try:
        before = _read(handle)
        _write(handle, path / LOCK_FILE, doing)
        yield before
    finally:
        del _held[path]
        with suppress(OSError):  # the block may have removed the folder
            (path / LOCK_FILE).unlink()
        os.close(handle)
        if is_new:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def owner_of(folder: Path) -> Owner | None:
    """The live process that holds the lock of a folder, as far as its file says; None when nobody does."""
    try:
        handle = os.open(Path(folder) / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _read(handle)
    finally:
        os.close(handle)
    return owner if owner is not None and owner.is_alive() else None


def _acquire(folder: Path, path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(handle, folder)
            # The owner before may have removed the file between the two calls: then this lock protects nothing.
            if _is_same(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _try_lock(handle, folder)
            return
        except LockedError as error:
            # A new owner writes its name in a moment; and a child that was just being forked when its parent was killed
            # lets go in a moment.
            if (error.owner is not None and error.owner.is_alive()) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _try_lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _read(handle)
        if error.errno in _BUSY:
            raise LockedError(folder, owner) from error
        if error.errno not in _UNSUPPORTED:
            raise
        # A file system without locks: what the file says of its owner has to do.
        if owner is not None and owner.is_alive():
            raise LockedError(folder, owner) from error


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read(handle: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(handle, 4096, 0)))
    except (OSError, ValueError, TypeError):
        return None  # not written yet, or by something else


def _write(handle: int, path: Path, doing: str) -> None:
    owner = Owner(pid=os.getpid(), started=start_of(os.getpid()) or "", host=platform.node(), doing=doing)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)
    except OSError as error:  # which does not know the path
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def _forget() -> None:
    """In a forked child: it must not keep the lock of an owner that is killed."""
    for held in _held.values():
        with suppress(OSError):
            os.close(held.handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
