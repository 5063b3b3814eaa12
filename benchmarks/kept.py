"""Values of runs that are done, so that an interrupted benchmark goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marquee.training.errors import TrainingError
from marquee.training.files import write_json

Values = dict[str, float]


def kept(path: Path, settings: dict[str, Any], compute: Callable[[], Values]) -> Values:
    """The values in ``path``; where there is no such file, those of ``compute``, which are written there.

    Args:
        path: one run's file.
        settings: everything that decides the values, as JSON has it: no tuples.
        compute: makes the run.

    Raises:
        TrainingError: the file is damaged, or its values are those of other settings.
    """
    if not path.exists():
        values = compute()
        write_json(path, {"settings": settings, "values": values})
        return values
    try:
        document = json.loads(path.read_text("utf-8"))
        earlier, values = document["settings"], {name: float(value) for name, value in document["values"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not readable as a kept run: {error}; remove it") from error
    if earlier != settings:
        raise TrainingError(f"{path}: is of a run with other settings; remove its folder, or choose another --work")
    return values
