"""``model-config.yaml`` inside an archive: read it, and change some of its settings."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from marquee.handlers.schema import SchemaError, from_dict
from marquee.handlers.worker_config import CONFIG_FILE, NAMES, SECTION, WorkerConfig
from marquee.serving.archive import replace_entry
from marquee.serving.errors import OperationError


def read_model_config(archive: Path) -> dict[str, Any]:
    """The document of an archive's ``model-config.yaml``; empty where it has no such file.

    Raises:
        OperationError: the archive or the file cannot be read.
    """
    return dict(_load(archive))


def worker_config(document: Mapping[str, Any]) -> WorkerConfig:
    """What an archive of any version says to its handler.

    Raises:
        OperationError: a key is unknown or has a wrong value.
    """
    section = {key: document[key] for key in NAMES if key in document} if _is_flat(document) else document.get(SECTION)
    try:
        return from_dict(WorkerConfig, {} if section is None else dict(section), SECTION)
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
    document = _load(archive)
    flat = _is_flat(document)
    for key, value in changes.items():
        if key not in NAMES or flat:
            document[key] = value
        elif document.get(SECTION) is None:
            document[SECTION] = {key: value}
        else:
            document[SECTION][key] = value
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _is_flat(document: Mapping[str, Any]) -> bool:
    """Whether an older version packed the archive: its handler reads its keys from among TorchServe's."""
    return SECTION not in document and any(name in document for name in NAMES)


def _yaml() -> YAML:
    yaml = YAML()  # round trip: keeps comments, order and quotes
    yaml.width = 10_000  # breaks no line
    return yaml


def _load(archive: Path) -> Any:
    """A mapping that remembers comments."""
    try:
        with zipfile.ZipFile(archive) as archived:
            text = archived.read(CONFIG_FILE).decode("utf-8") if CONFIG_FILE in archived.namelist() else ""
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise OperationError(f"{archive}: its {CONFIG_FILE} cannot be read: {error}") from error
    try:
        document = _yaml().load(text)
    except YAMLError:
        document = text
    if document is None:
        return _yaml().map()
    if not isinstance(document, dict) or not isinstance(document.get(SECTION, {}), dict | None):
        raise OperationError(f"{archive}: its {CONFIG_FILE} is not a YAML mapping; package the run again")
    return document
