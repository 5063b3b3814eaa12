"""Files of a data set that a run leaves out."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.core.quoting import one_line
from marquee.training.core.files import write_csv

logger = logging.getLogger(__name__)

SHOWN = 20
"""Number of left-out files that are logged one by one."""


@dataclass(frozen=True)
class Rejected:
    """One file that is left out, and why."""

    path: str
    reason: str
    stratum: str = ""
    """The class that the data set gives it; empty where it has none."""
    split: str = ""
    """The split that the data set gives it."""


def log_rejected(rejected: Sequence[Rejected]) -> None:
    """Logs the first :data:`SHOWN`, and how many more there are."""
    for item in rejected[:SHOWN]:
        logger.info(one_line(f"left out: {item.path}: {item.reason}"))
    if len(rejected) > SHOWN:
        logger.info(f"left out: {len(rejected) - SHOWN} more")


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Writes the left-out files as CSV with ``path,reason,class,split``."""
    rows = ((item.path, item.reason, item.stratum, item.split) for item in rejected)
    write_csv(path, ("path", "reason", "class", "split"), (map(_writable, row) for row in rows))


def _writable(text: str) -> str:
    """Bytes of a name that are no UTF-8, which Python holds as surrogates, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
