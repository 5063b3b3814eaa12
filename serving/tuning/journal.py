"""What was measured, one line a slice, so that a call that was cut short is gone on with."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from marquee.handlers.host import this_host
from marquee.handlers.schema import SchemaError, from_dict, to_dict
from marquee.serving.archive import CONFIG_ENTRY
from marquee.serving.errors import OperationError
from marquee.serving.tuning.result import Slice
from marquee.serving.tuning.space import Point, Space

_LIBRARIES = ("torch", "torchserve", "openvino", "numpy", "Pillow")


class Journal:
    """A file of JSON lines; those of other archives, machines and loads are kept and not read.

    Args:
        path: the file; made when missing.
        key: of what is measured (see :func:`journal_key`).

    Raises:
        OperationError: the file cannot be read or written.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._key = key
        self._kept: dict[tuple[str, str], Slice] = {}
        try:
            lines = path.read_text("utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise OperationError(f"{path}: not readable as a journal: {error}; move it away to start anew") from error
        for line in lines:
            self._read(line)

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, point: Point, stage: str) -> Slice | None:
        """What was measured at ``point`` in ``stage``; None when nothing."""
        return self._kept.get((point.key, stage))

    def append(self, point: Point, stage: str, measured: Slice) -> None:
        """Writes one slice down, so that it survives whatever comes next.

        Raises:
            OperationError: the file cannot be written.
        """
        self._kept[point.key, stage] = measured
        entry = {"key": self._key, "stage": stage, "point": point.to_dict(), "slice": _to_dict(measured)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as stream:
                # A line that a kill cut in half must not swallow this one.
                stream.seek(max(0, stream.tell() - 1))
                before = b"" if stream.read() in (b"", b"\n") else b"\n"
                stream.write(before + json.dumps(entry).encode("utf-8") + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OperationError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if entry["key"] == self._key:
                point = Point(tuple(entry["point"].items()))
                self._kept[point.key, entry["stage"]] = from_dict(Slice, entry["slice"])
        except (ValueError, KeyError, TypeError, AttributeError, SchemaError):
            pass  # cut in half by a kill


def journal_key(
    archive: Path,
    space: Space,
    config: Mapping[str, Any],
    server_config: Path,
    load: Mapping[str, Any],
    bodies: Sequence[bytes],
) -> str:
    """A digest of all that decides a measurement: archive, machine, libraries, server settings, load and images.

    Args:
        archive: every file in it counts but ``model-config.yaml``, whose searched keys tuning itself changes.
        space: what is searched.
        config: ``model-config.yaml``; its other keys count.
        server_config: ``config.properties``.
        load: clients, seconds and so on.
        bodies: of the requests.
    """
    searched = {key for dimension in space.dimensions for key in dimension.keys} | {"jobQueueSize"}
    digest = hashlib.sha256()
    with zipfile.ZipFile(archive) as archived:
        for name in sorted(archived.namelist()):
            if name != CONFIG_ENTRY:
                digest.update(name.encode("utf-8") + hashlib.sha256(archived.read(name)).digest())
    facts = {
        "host": to_dict(this_host()),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "config": {key: value for key, value in config.items() if key not in searched},
        "load": dict(load),
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode("utf-8"))
    digest.update(server_config.read_bytes())
    for body in bodies:
        digest.update(hashlib.sha256(body).digest())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _to_dict(measured: Slice) -> dict[str, Any]:
    # JSON has no infinity: the figures of a failure are the defaults.
    document: dict[str, Any] = {"failure": measured.failure} if measured.failure else to_dict(measured)
    return document
