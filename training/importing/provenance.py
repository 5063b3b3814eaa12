"""Where an imported model comes from, for the spec of its bundle."""

import datetime
import hashlib
from pathlib import Path
from typing import Any

from marquee.handlers.core.bundle import sha256_file
from marquee.training.core.environment import library_versions


def provenance(model: Path, licence: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The model's file and digest, its licence, and what is known of it."""
    return {
        "imported": {"file": model.name, "sha256": digest_of(model), **facts},
        "licence": licence or "not given",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": library_versions(),
    }


def digest_of(path: Path) -> str:
    """The sha256 of a file; for a folder or an IR with its ``.bin``, that of the names and sha256 of its files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        weights = path.with_suffix(".bin")
        files = [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]
    if files == [path]:
        return sha256_file(path)
    lines = [f"{file.relative_to(path.parent).as_posix()} {sha256_file(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
