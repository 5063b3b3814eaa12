"""The entry file of every ``.mar``, where it is named after the task.

TorchServe calls :func:`handle`, once without data to load the model.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = "_marquee_archive"
"""The name under which the archive's own code is imported: nothing else is called so."""


def _import_archived(folder: Path) -> ModuleType:
    """Imports the package in ``folder`` by its place, not by a search of ``sys.path``.

    The worker's own folder is on its path, but behind an inherited PYTHONPATH: an older copy there would win, and so
    would an installed one that was imported before.
    """
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder}: no package")
    package = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = package
    spec.loader.exec_module(package)
    return importlib.import_module(f"{_PACKAGE}.core.handler")


try:
    _handler = _import_archived(Path(__file__).resolve().parent / "handlers").Handler()
except ImportError as error:
    # TorchServe answers an ImportError by looking for a built-in handler of that name, which hides the cause.
    raise RuntimeError(f"the handler needs a library that this server does not have: {error}") from error


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Loads the model when ``data`` is None, otherwise answers one batch."""
    if data is None:
        _handler.initialize(context)
        return None
    answers: list[bytes] = _handler.handle(data, context)
    return answers
