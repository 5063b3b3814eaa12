"""Writes golden samples: raw inputs, with the answers that a bundle's predictor gave for them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.core.output import Prediction
from marquee.handlers.core.spec import EXPECTED_FILE, GoldenSpec
from marquee.training.core.errors import ExportError
from marquee.training.core.task import Task

MAX_GOLDEN = 128


def write_golden(folder: Path, task: Task[Any], records: Sequence[Any], answers: Sequence[Prediction]) -> GoldenSpec:
    """Copies the raw inputs into the bundle ``folder`` and writes what its predictor answered for them.

    Args:
        folder: the folder of the bundle that is being written.
        task: provides what a client would send.
        records: the items.
        answers: one answer per record.

    Raises:
        ExportError: an item has changed since its record was made.
    """
    copied = write_requests(folder, "golden", task, records)
    entries = (
        {"file": name, **task.truth(record), **answer.golden()}
        for (name, _), record, answer in zip(copied, records, answers, strict=True)
    )
    return GoldenSpec(files={**dict(copied), EXPECTED_FILE: write_answers(folder / EXPECTED_FILE, entries)})


def write_answers(path: Path, entries: Iterable[Mapping[str, Any]]) -> str:
    """Writes one variant's golden answers (see :mod:`marquee.handlers.core.golden`); returns the file's sha256."""
    path.write_text(json.dumps(list(entries), indent=1), "utf-8")
    return sha256_file(path)


def write_requests(folder: Path, name: str, task: Task[Any], records: Sequence[Any]) -> list[tuple[str, str]]:
    """Writes what a client would send to ``folder/name/000.png``, ...; returns each one's path and sha256.

    Raises:
        ExportError: an item has changed since its record was made.
    """
    (folder / name).mkdir()
    written = []
    for number, record in enumerate(records):
        suffix, content = task.request(record)
        path, digest = f"{name}/{number:03d}{suffix}", hashlib.sha256(content).hexdigest()
        if digest != record.sha256:
            raise ExportError(f"{record.path}: was changed since the manifest was made")
        (folder / path).write_bytes(content)
        written.append((path, digest))
    return written
