"""Class names of an imported model."""

import json
from pathlib import Path
from typing import Any

from marquee.training.core.errors import TrainingError


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads class names in the order of the model's outputs, at least two.

    Args:
        path: a text file with one name per line, or a JSON list of strings.

    Raises:
        TrainingError: the file cannot be read, or a name is empty or occurs twice; the message names the entry.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise TrainingError(f"--labels {path}: not readable: {reason}; write one class name per line") from error
    names = _from_json(path, text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    entries: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise TrainingError(f"--labels {path}: entry {number} is empty; each of the model's outputs needs a name")
        if name in entries:
            raise TrainingError(
                f"--labels {path}: {name!r} occurs twice, as entries {entries[name]} and {number}; make them differ"
            )
        entries[name] = number
    if len(names) < 2:
        raise TrainingError(f"--labels {path}: {len(names)} class names; a classifier has at least 2")
    return tuple(names)


def _from_json(path: Path, text: str) -> list[str]:
    try:
        names: Any = json.loads(text)
    except ValueError as error:
        raise TrainingError(f"--labels {path}: starts like a JSON list, but is not valid: {error}") from error
    if not all(isinstance(name, str) for name in names):
        raise TrainingError(f"--labels {path}: expected a JSON list of strings")
    return [name.strip() for name in names]


def check_count(path: Path, labels: tuple[str, ...], outputs: int) -> None:
    """Raises TrainingError unless there is one label for each of the model's ``outputs``."""
    if len(labels) != outputs:
        raise TrainingError(f"--labels {path}: {len(labels)} class names, but the model has {outputs} outputs")
