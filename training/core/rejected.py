"""Files of a data set that a run leaves out."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.files import write_csv

logger = logging.getLogger(__name__)

SHOWN = 20
"""Number of left-out files that are logged one by one."""


@dataclass(frozen=True)
class Rejected:
    """One file that is left out, and why."""

    path: str
    reason: str


def log_rejected(rejected: Sequence[Rejected]) -> None:
    """Logs the first :data:`SHOWN`, and how many more there are."""
    for item in rejected[:SHOWN]:
        logger.info(f"left out: {item.path}: {item.reason}")
    if len(rejected) > SHOWN:
        logger.info(f"left out: {len(rejected) - SHOWN} more")


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Writes the left-out files as CSV with ``path,reason``."""
    write_csv(path, ("path", "reason"), ([item.path, item.reason] for item in rejected))
