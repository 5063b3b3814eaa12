"""Class names of an imported model, in the forms in which libraries and tools write them."""

from collections.abc import Sequence
from pathlib import Path

from marquee.training.core.errors import TrainingError
from marquee.training.importing.label_entries import FORMS, Entry, in_order
from marquee.training.importing.label_json import json_entries
from marquee.training.importing.label_lines import line_entries
from marquee.training.tasks.classification.names import canonical

_OTHER_KINDS = {".yaml": "YAML", ".yml": "YAML", ".pbtxt": "a label map of TensorFlow", ".pkl": "a pickle"}


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads class names in the order of the model's outputs, at least two.

    Args:
        path: a text file with one name or "index name" per line, a CSV with index and name, or JSON: a list of names,
            index -> name (``id2label``, also inside of Hugging Face's ``config.json``), or name -> index (Keras's
            ``class_indices``).

    Raises:
        TrainingError: the file cannot be read; a name is empty or occurs twice; an index occurs twice or is missing.
            The message names the line.
    """
    if kind := _OTHER_KINDS.get(path.suffix.lower()):
        raise TrainingError(f"--labels {path}: is {kind}, which is not read; {FORMS}")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise TrainingError(f"--labels {path}: not readable: {reason}; write one class name per line") from error
    is_json = text.lstrip()[:1] in ("[", "{") or path.suffix.lower() == ".json"
    entries = json_entries(path, text) if is_json else line_entries(path, text)
    return _names(path, in_order(path, entries))


def _names(path: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    seen: dict[str, Entry] = {}
    for entry in entries:
        name = canonical(entry.name)
        if not name:
            raise TrainingError(f"--labels {path}: {entry.place} is empty; each of the model's outputs needs a name")
        if name in seen:
            kind, first = seen[name].place.split()
            kinds = {"line": "lines", "entry": "entries"}[kind]
            raise TrainingError(
                f"--labels {path}: {name!r} occurs twice, as {kinds} {first} and {entry.place.split()[1]}; "
                "make them differ"
            )
        seen[name] = entry
    if len(seen) < 2:
        raise TrainingError(f"--labels {path}: {len(seen)} class names; a classifier has at least 2")
    return tuple(seen)


def check_count(path: Path, labels: tuple[str, ...], outputs: int) -> None:
    """Raises TrainingError unless there is one label for each of the model's ``outputs``."""
    if len(labels) != outputs:
        raise TrainingError(f"--labels {path}: {len(labels)} class names, but the model has {outputs} outputs")
