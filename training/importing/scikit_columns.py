"""ColumnTransformer: which columns go to which transformer, and their outputs side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from marquee.training.importing.scikit_modules import Beside, Pick
from marquee.training.importing.scikit_slots import Slot, refusal

Convert = Callable[[Any, Sequence[Slot], str], tuple[nn.Module, list[Slot]]]


def column_transformer(
    estimator: Any, slots: Sequence[Slot], place: str, convert: Convert
) -> tuple[nn.Module, list[Slot]]:
    """Converts a ColumnTransformer.

    Args:
        estimator: fitted.
        slots: of its input.
        place: of the step.
        convert: converts one of its transformers.

    Raises:
        UnsupportedError: it cannot be imported.
    """
    if estimator.transformer_weights:
        raise refusal(place, "transformer_weights cannot be imported")
    parts: list[nn.Module] = []
    outputs: list[Slot] = []
    for name, step, columns in branches(estimator, place):
        if (isinstance(step, str) and step == "drop") or not columns:
            continue
        module, converted = convert(step, [slots[column] for column in columns], f"{place} > {name}")
        if converted:
            parts.append(nn.Sequential(Pick(columns), module))
            outputs += converted
    if not parts:
        raise refusal(place, "leaves no column")
    return Beside(parts), outputs


def branches(estimator: Any, place: str) -> list[tuple[str, Any, list[int]]]:
    """(name, transformer, positions of its columns) of each branch, in the order of the outputs.

    Raises:
        UnsupportedError: it is not fitted, or its columns cannot be told.
    """
    fitted = getattr(estimator, "transformers_", None)
    if fitted is None:
        raise refusal(place, "is not fitted")
    names, count = list(getattr(estimator, "feature_names_in_", ())), int(estimator.n_features_in_)
    return [(str(name), step, positions(columns, names, count, f"{place} > {name}")) for name, step, columns in fitted]


def positions(columns: Any, names: Sequence[str], count: int, place: str) -> list[int]:
    """The positions of columns that a ColumnTransformer names in one of its ways.

    Args:
        columns: positions, names, a mask or a slice.
        names: of all columns; none where it was fitted without.
        count: of all columns.
        place: of the transformer.

    Raises:
        UnsupportedError: they are something else, or not there.
    """
    if isinstance(columns, slice):
        ends = [_position(end, names, place) for end in (columns.start, columns.stop)]
        by_name = isinstance(columns.stop, str)  # such a slice includes its end
        return list(range(count))[ends[0] : ends[1] + 1 if by_name and ends[1] is not None else ends[1] : columns.step]
    if isinstance(columns, (str, int, np.integer)):
        raise refusal(place, f"gets column {columns!r} as a vector; give it as a list, [{columns!r}], and fit it again")
    listed = list(columns)
    if len(listed) == count and all(isinstance(one, (bool, np.bool_)) for one in listed):
        return [position for position, chosen in enumerate(listed) if chosen]
    found = [_position(one, names, place) for one in listed]
    if any(position is None or not -count <= position < count for position in found):
        raise refusal(place, f"its columns {listed} are not among its {count} columns")
    return [position % count for position in found if position is not None]


def _position(column: Any, names: Sequence[str], place: str) -> int | None:
    if column is None:
        return None
    if isinstance(column, str):
        if column not in names:
            raise refusal(place, f"has no column {column!r}")
        return names.index(column)
    return int(column)


def by_position(estimator: Any) -> None:
    """Lets every ColumnTransformer inside an estimator choose its columns by position, so that it can take arrays."""
    from sklearn.compose import ColumnTransformer

    if isinstance(estimator, ColumnTransformer):
        estimator.transformers_ = branches(estimator, "ColumnTransformer")
    for inner in _inside(estimator):
        by_position(inner)


def _inside(estimator: Any) -> list[Any]:
    """The fitted estimators that one has in it."""
    steps = [step[1] for name in ("steps", "transformers_") for step in getattr(estimator, name, ())]
    inner = [getattr(estimator, name, None) for name in ("regressor_", "transformer_")]
    return [one for one in (*steps, *inner) if one is not None and not isinstance(one, str)]
