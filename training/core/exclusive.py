"""One command at a time in a folder that training writes, and nothing of killed ones left in it."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marquee.locks import LOCK_FILE, LockedError, locked
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import atomic_folder
from marquee.training.core.run_folder import RunFolder

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\.(?P<name>[A-Za-z][\w.-]*?)\.(?P<old>old\.)?[a-z0-9_]{8}")
"""What :mod:`marquee.training.core.files` calls a file or folder until it is whole, and an old folder until the new one
is in its place."""
_OURS = re.compile(
    r"(bundle|cache|checkpoints|winner|train|val|last|best|epoch-\d+(-batch-\d+)?|MODEL_CARD\.md|"
    r"[\w-]+\.(json|yaml|csv|html|md|svg|txt|jsonl))"
)
"""What commands write in such a folder."""


@contextmanager
def exclusive(folder: Path, doing: str) -> Iterator[None]:
    """Holds the lock of a folder for the length of the block, after clearing up after a command that was killed.

    Args:
        folder: a run's folder, or that of a selection; made when missing, and removed again where
            the block leaves it empty.
        doing: the command, for the message that others get.

    Raises:
        TrainingError: another command works in it; the message names its process.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise TrainingError(f"{folder}: exists already and is a file; choose another folder")
    try:
        with locked(folder, doing) as before:
            if before is not None:
                logger.info(f"{folder}: taken over from {before}, which ended without finishing")
            clear_up(folder)
            yield
    except LockedError as error:
        raise TrainingError(str(error)) from error


@contextmanager
def new_folder(folder: Path, doing: str) -> Iterator[Path]:
    """Yields a temporary folder to fill, which becomes ``folder`` when the block ends without an error.

    Args:
        folder: must not exist.
        doing: the command, for the message that others get.

    Raises:
        TrainingError: it exists, or another command is making it.
    """
    exists = TrainingError(f"--out {folder}: exists already; choose a new folder")
    if folder.exists() and not (folder / LOCK_FILE).is_file():
        raise exists
    with exclusive(folder, doing):
        if not is_empty(folder):
            raise exists
        with atomic_folder(folder) as staging:
            yield staging


def clear_up(folder: Path) -> None:
    """Removes what a killed command left half-written, and puts a folder back that it was about to replace."""
    for place in (Path(folder), RunFolder(folder).checkpoints, RunFolder(folder).cache):
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            match = _TEMPORARY.fullmatch(path.name)
            if match is None or not _OURS.fullmatch(match["name"]) or path.is_symlink():
                continue
            target = place / match["name"]
            if match["old"] and (path / target.name).exists() and not target.exists():
                (path / target.name).rename(target)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder has no files, but for its lock."""
    return all(path.name == LOCK_FILE for path in Path(folder).iterdir())
