"""Reads and changes the ``model-config.yaml`` inside an archive."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from marquee.handlers.core.schema import SchemaError, from_dict
from marquee.handlers.core.worker_config import CONFIG_FILE, NAMES, SECTION, WorkerConfig
from marquee.serving.archive import replace_entry
from marquee.serving.errors import OperationError

_MODULES = {"handlers/core/worker_config.py", "handlers/worker_config.py"}
"""An archive with one of these modules has a handler that reads the section."""


def read_model_config(archive: Path) -> dict[str, Any]:
    """An archive's ``model-config.yaml``, parsed as the worker parses it; empty if the archive has no such file.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    return _parse(archive, _text(archive))


def worker_config(document: Mapping[str, Any]) -> WorkerConfig:
    """The handler's settings in the ``model-config.yaml`` of an archive of any version.

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
    """Changes settings of an archive; other keys and comments are kept.

    Args:
        archive: a ``.mar``.
        changes: keys of TorchServe or of the handler, with their values; the latter are written where the archive's
            handler reads them.

    Raises:
        OperationError: the archive cannot be read or written.
    """
    replace_entry(archive, CONFIG_FILE, changed_config(archive, changes).encode("utf-8"))


def changed_config(archive: Path, changes: Mapping[str, Any]) -> str:
    """The text of an archive's ``model-config.yaml`` with ``changes`` applied.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    text = _text(archive)
    in_section = _sectioned(archive, changes)
    expected = _set(_parse(archive, text), changes, in_section)
    try:
        editor = _editor()
        edited = _set(editor.load(text) or editor.map(), changes, in_section)
        stream = io.StringIO()
        editor.dump(edited, stream)
        # The two libraries read some unquoted words and numbers differently: yes, off, 010.
        if yaml.safe_load(stream.getvalue()) == expected:
            return stream.getvalue()
    except YAMLError:
        pass  # such as a duplicate key, which the worker's YAML library accepts
    return yaml.safe_dump(expected, sort_keys=False)


def places(archive: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Each setting under the key that the archive's handler reads, for display: ``handler.threads`` -> its value."""
    in_section = _sectioned(archive, changes)
    return {f"{SECTION}.{key}" if key in in_section else key: value for key, value in changes.items()}


def _sectioned(archive: Path, changes: Mapping[str, Any]) -> list[str]:
    """The keys of ``changes`` that belong in the section; none in an archive of an older version."""
    with zipfile.ZipFile(archive) as archived:
        names = archived.namelist()
    older = any(name.startswith("handlers/") for name in names) and not _MODULES & set(names)
    flat = older or _is_flat(read_model_config(archive))
    return [] if flat else [key for key in changes if key in NAMES]


def _is_flat(document: Mapping[str, Any]) -> bool:
    """Whether an older version packed the archive: its handler reads its keys at the top level, among TorchServe's."""
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
    editor.width = 10_000  # does not wrap lines
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
