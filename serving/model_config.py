"""``model-config.yaml`` inside an archive: read it, and change some of its keys."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from marquee.serving.archive import CONFIG_ENTRY, replace_entry
from marquee.serving.errors import OperationError


def read_model_config(archive: Path) -> dict[str, Any]:
    """The keys of an archive's ``model-config.yaml``; none where it has no such file.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    return _parse(archive, _text(archive))


def update_model_config(archive: Path, changes: Mapping[str, Any]) -> None:
    """Sets keys of an archive's ``model-config.yaml``; its other keys and its comments stay.

    Raises:
        OperationError: the archive cannot be read or written.
    """
    replace_entry(archive, CONFIG_ENTRY, changed_config(archive, changes).encode("utf-8"))


def changed_config(archive: Path, changes: Mapping[str, Any]) -> str:
    """The text of an archive's ``model-config.yaml`` with other values for some keys.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    before = _text(archive)
    wanted = {**_parse(archive, before), **changes}
    text = before
    for key, value in changes.items():
        line = yaml.safe_dump({key: value}, sort_keys=False).rstrip("\n")
        pattern, replacement = rf"(?m)^{re.escape(key)}\s*:.*$", line.replace("\\", r"\\")
        text, found = re.subn(pattern, replacement, text)
        if not found:
            text = f"{text.rstrip()}\n{line}\n" if text.strip() else f"{line}\n"
    # A file in another style than one key a line, such as {a: 1, b: 2}, loses its comments rather than a key.
    return text if _parse_or_none(text) == wanted else yaml.safe_dump(wanted, sort_keys=False)


def _text(archive: Path) -> str:
    try:
        with zipfile.ZipFile(archive) as archived:
            return archived.read(CONFIG_ENTRY).decode("utf-8") if CONFIG_ENTRY in archived.namelist() else ""
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise OperationError(f"{archive}: its {CONFIG_ENTRY} cannot be read: {error}") from error


def _parse(archive: Path, text: str) -> dict[str, Any]:
    parsed = _parse_or_none(text)
    if parsed is None:
        raise OperationError(f"{archive}: its {CONFIG_ENTRY} is not a YAML mapping; package the run again")
    return parsed


def _parse_or_none(text: str) -> dict[str, Any] | None:
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    if parsed is None:
        return {}
    return parsed if isinstance(parsed, dict) else None
