"""The entry point that the ``.mar`` names. TorchServe calls :func:`handle`, once without data to load the model."""

import sys
from pathlib import Path
from typing import Any

# The worker's own folder is on its path, but behind an inherited PYTHONPATH: an older copy there would win.
sys.path.insert(0, str(Path(__file__).resolve().parent))

try:
    from handlers.service import ClassifierService
except ImportError as error:
    # TorchServe answers an ImportError by looking for a built-in handler of that name, which hides the cause.
    raise RuntimeError(f"the handler needs a library that this server does not have: {error}") from error

_service = ClassifierService()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """Loads the model when ``data`` is None, otherwise answers one batch."""
    if data is None:
        _service.initialize(context)
        return None
    return _service.handle(data, context)
