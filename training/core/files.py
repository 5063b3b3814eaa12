"""Atomic writes: a reader never sees a partial file."""

import csv
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replaces ``path`` by ``content`` in one step: temporary file, fsync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with _named(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        _follow_umask(Path(temporary))  # mkstemp creates files that only their owner can read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_atomic` for indented JSON."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling folder to fill; it becomes ``path`` when the block ends without an error.

    An existing ``path`` is replaced by two renames, since no portable call exchanges folders; files are synced first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path):
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        _follow_umask(temporary)
        for file in temporary.rglob("*"):
            _follow_umask(file)  # safetensors, too, creates files that only their owner can read
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
        _sync_folder(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            path.rename(old / path.name)
            try:
                temporary.rename(path)
            except BaseException:
                (old / path.name).rename(path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the file that was to be written, not the temporary one: a permission is missing, the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def _follow_umask(path: Path) -> None:
    """Gives a file or folder the permissions that it would have if it had been created without any of its own."""
    if path.is_symlink():
        return
    wanted = 0o777 if path.is_dir() else 0o666 | stat.S_IMODE(path.stat().st_mode)
    path.chmod(wanted & ~_umask())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a CSV file with :func:`write_atomic`."""
    buffer = io.StringIO()
    plain = csv.writer(buffer, lineterminator="\n")
    # Python's csv quotes a carriage return only where it ends lines, yet every reader takes it for the end of one.
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in chain([header], rows):
        cells = list(row)
        (quoted if any("\r" in cell for cell in cells if isinstance(cell, str)) else plain).writerow(cells)
    write_atomic(path, buffer.getvalue())
