"""What may be wrong with rows of a table."""

from collections.abc import Mapping
from typing import ClassVar

from ...core.errors import InputError

STATUS_BY_CODE = {
    "bad_value": 400,
    "missing_value": 400,
    "missing_column": 400,
    "unknown_column": 400,
    "bad_table": 400,
}
"""Error code of a row or of a whole table -> HTTP status."""


class TableError(InputError):
    """A row, or a whole table, cannot be used; ``code`` is a key of :data:`STATUS_BY_CODE` or of the general ones."""

    statuses: ClassVar[Mapping[str, int]] = {**InputError.statuses, **STATUS_BY_CODE}
