"""A schema as a JSON file, for people to read and to keep."""

import json
from pathlib import Path
from typing import Any

from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.handlers.inputs.table.spec import TableSpec
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_json


def write_schema(path: Path, spec: TableSpec) -> None:
    """Writes a schema; a reader never sees a part of it."""
    write_json(path, to_dict(spec))


def read_schema(path: Path) -> TableSpec:
    """Reads what :func:`write_schema` wrote.

    Raises:
        TrainingError: the file cannot be read, or is no schema; the message names file and field.
    """
    try:
        data: Any = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}") from error
    try:
        return from_dict(TableSpec, data)
    except SchemaError as error:
        raise TrainingError(f"{path}: {error}") from error
