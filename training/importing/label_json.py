"""Class names in JSON: a list, index -> name, or name -> index, alone or inside of a model's configuration."""

import json
import re
from pathlib import Path
from typing import Any

from marquee.training.core.errors import TrainingError
from marquee.training.importing.label_entries import FORMS, Entry

_MEMBERS = ("id2label", "label2id", "class_indices", "class_to_idx", "labels", "label_names", "class_names", "classes")
"""Under what Hugging Face, Keras, torchvision, timm and Teachable Machine store class names, by preference."""


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object in their order; a dictionary would lose one that occurs twice."""


def json_entries(path: Path, text: str) -> list[Entry]:
    """The class names of a JSON file.

    Raises:
        TrainingError: it is not valid, or has none of the forms; the message names the entry.
    """
    try:
        document: Any = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        kind = "object" if text.lstrip().startswith("{") else "list"
        raise TrainingError(
            f"--labels {path}: starts like a JSON {kind}, but is not valid: {error}; write it with "
            "json.dump, or one class name per line"
        ) from error
    if isinstance(document, _Pairs):
        members = dict(document)
        found = [name for name in _MEMBERS if isinstance(members.get(name), list)]
        if found:
            start = text.index(json.dumps(found[0]))
            chosen = _entries(path, text, members[found[0]], start)
            _check_agreement(path, text, chosen, members, found)
            return chosen
        if all(_index(key) is None and _index(value) is None for key, value in document):
            raise TrainingError(
                f"--labels {path}: has none of the members {', '.join(_MEMBERS)}, and is not itself index and name; "
                f"{FORMS}"
            )
    return _entries(path, text, document, 0)


def _entries(path: Path, text: str, value: Any, start: int) -> list[Entry]:
    """The entries of a list, or of an object that begins at or after ``start`` in the text."""
    if isinstance(value, _Pairs):
        return _numbered(path, text, value, start)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TrainingError(f"--labels {path}: expected a JSON list of strings, or an object of indices and names")
    return [Entry(name, f"entry {number}") for number, name in enumerate(value, start=1)]


def _numbered(path: Path, text: str, pairs: _Pairs, start: int) -> list[Entry]:
    places = _places(text, [key for key, _ in pairs], start)
    # Keras's file has numbers as values: where keys are numbers, too, they are names, such as those of digits.
    by_name = all(_index(value) is not None for _, value in pairs) and not (
        all(isinstance(value, str) and _index(key) is not None for key, value in pairs)
    )
    entries = []
    for (key, value), place in zip(pairs, places, strict=True):
        name, index = (key, _index(value)) if by_name else (value, _index(key))
        if index is None or not isinstance(name, str):
            shown = "a number" if isinstance(value, (int, float)) else json.dumps(value, ensure_ascii=False)[:60]
            raise TrainingError(
                f"--labels {path}: {place}: expected an index and a name, got {key!r} and {shown}; {FORMS}"
            )
        entries.append(Entry(name, place, index))
    return entries


def _index(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _places(text: str, keys: list[str], start: int) -> list[str]:
    """The line of each key, in the order in which they are written."""
    places, at = [], start
    for key in keys:
        spellings = "|".join(re.escape(json.dumps(key, ensure_ascii=ascii_only)) for ascii_only in (False, True))
        match = re.compile(rf"(?:{spellings})\s*:").search(text, at)
        at = match.end() if match else at
        places.append(f"line {text.count(chr(10), 0, at) + 1}")
    return places


def _check_agreement(path: Path, text: str, chosen: list[Entry], members: dict[str, Any], found: list[str]) -> None:
    """Raises TrainingError if ``id2label`` and ``label2id`` of one file contradict each other."""
    if found[:2] != ["id2label", "label2id"]:
        return
    other = {entry.name: entry for entry in _entries(path, text, members["label2id"], text.index('"label2id"'))}
    for entry in chosen:
        twin = other.get(entry.name)
        if twin is None or twin.index != entry.index:
            given = "leaves it out" if twin is None else f"gives it {twin.index} ({twin.place})"
            raise TrainingError(
                f"--labels {path}: id2label gives {entry.name!r} the index {entry.index} ({entry.place}), and label2id "
                f"{given}; {FORMS}"
            )
