"""What the management API says of models, as the gateway's types."""

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from marquee.gateway.backend import Version, Worker


def read_versions(described: Iterable[Mapping[str, Any]], default: str | None) -> list[Version]:
    """The versions of one model.

    Args:
        described: the answer of ``GET /models/NAME/all``.
        default: the default version; None: the only one.
    """
    documents = list(described)
    if default is None and len(documents) == 1:
        default = str(documents[0]["modelVersion"])
    return [_version(document, default) for document in documents]


def _version(document: Mapping[str, Any], default: str | None) -> Version:
    version = str(document["modelVersion"])
    return Version(
        name=str(document["modelName"]),
        version=version,
        is_default=version == default,
        workers=tuple(_worker(worker) for worker in document.get("workers", ())),
        pending=int(document.get("jobQueueStatus", {}).get("pendingRequests", 0)),
        archive=_archive(document.get("modelUrl")),
        wanted=int(document["minWorkers"]) if "minWorkers" in document else None,
    )


def _worker(document: Mapping[str, Any]) -> Worker:
    pid = document.get("pid")
    known = pid if isinstance(pid, int) and pid > 0 else None
    return Worker(id=str(document.get("id", "")), pid=known, state=str(document.get("status", "UNKNOWN")))


def _archive(url: object) -> str | None:
    """The file's name; what lies outside of the store has none."""
    return PurePosixPath(url).name or None if isinstance(url, str) else None


def own_description(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the handler says of itself, in the answer of ``GET /models/NAME?customized=true``; None: nothing."""
    said = document.get("customizedMetadata")
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError:
            return None
    return said if isinstance(said, dict) and said else None
