"""Writes golden samples: raw inputs, with the answers that a bundle's predictor gave for them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.output import Prediction
from marquee.handlers.core.sealed import seal
from marquee.handlers.core.spec import GoldenSpec, VariantSpec
from marquee.training.core.errors import ExportError
from marquee.training.core.task import Task

MAX_GOLDEN = 128


def write_golden(bundle: Bundle, task: Task[Any], records: Sequence[Any], answers: Sequence[Prediction]) -> GoldenSpec:
    """Copies the raw inputs into the bundle and writes what the predictor of its first variant answered for them.

    Args:
        bundle: the bundle that is being written; but for its golden files, its spec is as it will stay.
        task: provides what a client would send.
        records: the items.
        answers: one answer per record.

    Raises:
        ExportError: an item has changed since its record was made.
    """
    copied = write_requests(bundle.folder, "golden", task, records)
    entries = (
        {"file": name, **task.truth(record), **answer.golden()}
        for (name, _), record, answer in zip(copied, records, answers, strict=True)
    )
    return GoldenSpec(files={**dict(copied), **write_answers(bundle, bundle.spec.variants[0], entries)})


def write_answers(bundle: Bundle, variant: VariantSpec, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Writes one variant's golden answers, sealed (see :mod:`marquee.handlers.core.golden`).

    Args:
        bundle: whose spec says what decides an answer.
        variant: as the bundle's spec will have it, with its own calibration.
        entries: one a sample.

    Returns:
        Path inside the bundle -> sha256 of the file.
    """
    path = bundle.folder / variant.expected
    document = {"seal": seal(bundle.spec, variant), "answers": list(entries)}
    path.write_text(json.dumps(document, indent=1), "utf-8")
    return {variant.expected: sha256_file(path)}


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
