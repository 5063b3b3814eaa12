"""Rows as tensors of the Open Inference Protocol.

* A tensor for each column, ``[N]`` or ``[N, 1]``, by its name: numbers of any datatype, ``BOOL`` or 0 and 1 for
  booleans, ``BYTES`` for categories and dates. NaN and an empty text are missing values.
* One tensor ``[N, F]`` of all features in the order of the schema, of any name: numbers, or ``BYTES``, whose texts are
  read as the cells of CSV.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.errors import InputError
from ...core.oip.items import content_of
from ...core.oip.tensor import Tensor, check_items
from .cells import RawTable
from .errors import TableError
from .names import Names
from .notation import PLAIN
from .rows import Rows, from_columns
from .spec import TableSpec


def rows_of(tensors: Sequence[Tensor], spec: TableSpec, names: Names) -> Rows:
    """The rows of a request, not decoded yet.

    Args:
        tensors: of the request.
        spec: the schema, and how much a request may hold.
        names: of the schema.

    Raises:
        InputError: the tensors are not the schema's.
    """
    if len(tensors) == 1 and _is_matrix(tensors[0], names):
        return _from_matrix(tensors[0], spec, names)
    names.check([tensor.name for tensor in tensors])
    errors: dict[int, TableError] = {}
    columns = {}
    for tensor in tensors:
        values = tensor.column()
        check_items(len(values), spec.max_rows)
        columns[tensor.name] = _cells(values, tensor.name, errors)
    return replace(from_columns(columns, names), errors=errors)


def _is_matrix(tensor: Tensor, names: Names) -> bool:
    """Whether it is all features, by its shape: where there is one feature, that is its column."""
    features = len(names.features)
    return features > 1 and len(tensor.shape) == 2 and tensor.shape[1] == features


def _from_matrix(tensor: Tensor, spec: TableSpec, names: Names) -> Rows:
    rows = len(tensor.values)
    check_items(rows, spec.max_rows)
    errors: dict[int, TableError] = {}
    columns = [_cells(tensor.values[:, place], name, errors) for place, name in enumerate(names.features)]
    return Rows(RawTable(None, tuple(columns), range(1, rows + 1), PLAIN if tensor.is_bytes else None), errors)


def _cells(values: np.ndarray, name: str, errors: dict[int, TableError]) -> list[Any]:
    """The cells of one column, as JSON would have them.

    Args:
        values: of the column.
        name: of the column.
        errors: gets the first error of each row that is bad.
    """
    if values.dtype.kind != "O":
        cells: list[Any] = values.tolist()
        is_gappy = values.dtype.kind == "f" and np.isnan(values).any()
        return [None if math.isnan(cell) else cell for cell in cells] if is_gappy else cells
    cells = []
    for row, element in enumerate(values):
        try:
            cells.append(content_of(element).decode("utf-8") or None)
        except (UnicodeDecodeError, InputError) as error:
            reason = error.message if isinstance(error, InputError) else "the text is not UTF-8"
            errors.setdefault(row, TableError("bad_value", f"row {row + 1}, column {name!r}: {reason}"))
            cells.append(None)
    return cells
