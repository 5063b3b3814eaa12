"""``model-config.yaml`` inside an archive: read it, and change some of its settings."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from marquee.handlers.schema import SchemaError, from_dict
from marquee.handlers.worker_config import CONFIG_FILE, NAMES, SECTION, WorkerConfig
from marquee.serving.archive import replace_entry
from marquee.serving.errors import OperationError

_MODULE = "handlers/worker_config.py"
"""Of an archive whose handler reads the section."""


def read_model_config(archive: Path) -> dict[str, Any]:
    """The document of an archive's ``model-config.yaml``, as the worker reads it; empty where it has no such file.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    return _parse(archive, _text(archive))


def worker_config(document: Mapping[str, Any]) -> WorkerConfig:
    """What an archive of any version says to its handler.

    Raises:
        OperationError: a key is unknown or has a wrong value.
    """
    flat = _is_flat(document)
    section = {key: document[key] for key in NAMES if key in document} if flat else document.get(SECTION)
    try:
        return from_dict(WorkerConfig, {} if section is None else section, "" if flat else SECTION)
    except SchemaError as error:
        raise OperationError(f"{CONFIG_FILE}: {error}") from error


def update_model_config(archive: Path, changes: Mapping[str, Any]) -> None:
    """Sets some settings of an archive; its other keys and its comments stay.

    Args:
        archive: a ``.mar``.
        changes: keys of TorchServe or of the handler; the latter are put where the archive's own handler reads them.

    Raises:
        OperationError: the archive cannot be read or written.
    """
    replace_entry(archive, CONFIG_FILE, changed_config(archive, changes).encode("utf-8"))


def changed_config(archive: Path, changes: Mapping[str, Any]) -> str:
    """The text of an archive's ``model-config.yaml`` with other values for some settings.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    text = _text(archive)
    in_section = _sectioned(archive, changes)
    wanted = _set(_parse(archive, text), changes, in_section)
    try:
        editor = _editor()
        changed = _set(editor.load(text) or editor.map(), changes, in_section)
        stream = io.StringIO()
        editor.dump(changed, stream)
        # The two libraries read some unquoted words and numbers differently: yes, off, 010.
        if yaml.safe_load(stream.getvalue()) == wanted:
            return stream.getvalue()
    except YAMLError:
        pass  # a key that is there twice, say, which the worker's library accepts
    return yaml.safe_dump(wanted, sort_keys=False)


def places(archive: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Where the archive reads each setting, for people: ``handler.threads`` -> its value."""
    in_section = _sectioned(archive, changes)
    return {f"{SECTION}.{key}" if key in in_section else key: value for key, value in changes.items()}


def _sectioned(archive: Path, changes: Mapping[str, Any]) -> list[str]:
    """Those of ``changes`` that belong into the section; none in an archive of an older version."""
    with zipfile.ZipFile(archive) as archived:
        names = archived.namelist()
    older = any(name.startswith("handlers/") for name in names) and _MODULE not in names
    flat = older or _is_flat(read_model_config(archive))
    return [] if flat else [key for key in changes if key in NAMES]


def _is_flat(document: Mapping[str, Any]) -> bool:
    """Whether an older version packed the archive: its handler reads its keys from among TorchServe's."""
    return SECTION not in document and any(name in document for name in NAMES)


def _set(document: Any, changes: Mapping[str, Any], in_section: list[str]) -> Any:
    for key, value in changes.items():
        if key not in in_section:
            document[key] = value
        elif document.get(SECTION) is None:
            document[SECTION] = {key: value}
        else:
            document[SECTION][key] = value
    return document


def _editor() -> YAML:
    editor = YAML()  # keeps comments and order
    editor.preserve_quotes = True
    editor.width = 10_000  # breaks no line
    return editor


def _text(archive: Path) -> str:
    try:
        with zipfile.ZipFile(archive) as archived:
            return archived.read(CONFIG_FILE).decode("utf-8") if CONFIG_FILE in archived.namelist() else ""
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise OperationError(f"{archive}: its {CONFIG_FILE} cannot be read: {error}") from error


def _parse(archive: Path, text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        document = text
    document = {} if document is None else document
    if not isinstance(document, dict) or not isinstance(document.get(SECTION), dict | None):
        raise OperationError(f"{archive}: its {CONFIG_FILE} is not a YAML mapping; package the run again")
    return document
