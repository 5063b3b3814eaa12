"""OneHotEncoder and OrdinalEncoder."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from marquee.handlers.inputs.table.spec import MISSING
from marquee.training.importing.scikit_modules import Equals, Ordinal
from marquee.training.importing.scikit_slots import COMPUTED, Slot, refusal


def one_hot(estimator: Any, slots: Sequence[Slot], place: str) -> tuple[nn.Module, list[Slot]]:
    """Converts a OneHotEncoder. A category that it does not know has zeros, as with ``handle_unknown="ignore"``.

    Raises:
        UnsupportedError: it groups infrequent categories, or has categories of an unknown type.
    """
    _check_grouping(estimator, place)
    columns, values = [], []
    for number, (slot, categories) in enumerate(_categories(estimator, slots, place)):
        dropped = None if estimator.drop_idx_ is None else estimator.drop_idx_[number]
        kept = [value for index, value in enumerate(categories) if index != dropped]
        columns += [number] * len(kept)
        values += kept
        if estimator.handle_unknown == "error" and not _knows_missing(slot, categories):
            slot.complete(place)
    if not values:
        return nn.Identity(), []
    return Equals(columns, values), [COMPUTED] * len(values)


def ordinal(estimator: Any, slots: Sequence[Slot], place: str) -> tuple[nn.Module, list[Slot]]:
    """Converts an OrdinalEncoder that has a number for unknown categories.

    Raises:
        UnsupportedError: it has none, groups infrequent categories, or has categories of an unknown type.
    """
    _check_grouping(estimator, place)
    unknown, missing = estimator.unknown_value, float(estimator.encoded_missing_value)
    if estimator.handle_unknown != "use_encoded_value" or unknown is None or math.isnan(unknown):
        raise refusal(
            place, "has no number for unknown categories; fit it with handle_unknown='use_encoded_value' and a number"
        )
    columns, values, numbers, outputs = [], [], [], []
    for number, (slot, categories) in enumerate(_categories(estimator, slots, place)):
        columns += [number] * len(categories)
        values += categories
        absent = _missing_value(slot)
        numbers += [missing if _same(value, absent) else float(index) for index, value in enumerate(categories)]
        stays_missing = math.isnan(missing) and _knows_missing(slot, categories)
        outputs.append(slot.computed() if stays_missing else COMPUTED)
    return Ordinal(Equals(columns, values), numbers, len(slots), float(unknown)), outputs


def _check_grouping(estimator: Any, place: str) -> None:
    grouped = (estimator.min_frequency, estimator.max_categories) != (None, None)
    if grouped or estimator.handle_unknown == "infrequent_if_exist":
        raise refusal(
            place, "infrequent categories cannot be imported; fit it without min_frequency and max_categories, "
            "and with handle_unknown='ignore'"
        )  # fmt: skip
    if not hasattr(estimator, "categories_"):
        raise refusal(place, "is not fitted: it has no categories_")


def _categories(estimator: Any, slots: Sequence[Slot], place: str) -> list[tuple[Slot, list[float]]]:
    """For each column its slot, and its categories as they are in the matrix: codes, or numbers."""
    if len(estimator.categories_) != len(slots):
        raise refusal(place, f"has categories of {len(estimator.categories_)} columns, and gets {len(slots)}")
    pairs = zip(slots, estimator.categories_, strict=True)
    return [(slot, _in_matrix(slot, list(categories), place)) for slot, categories in pairs]


def _in_matrix(slot: Slot, categories: list[Any], place: str) -> list[float]:
    known = [category for category in categories if not is_absent(category)]
    if slot.is_category or any(isinstance(category, str) for category in known):
        # The texts first: they tell that the column holds categories, which the code of missing values depends on.
        codes = {category: slot.code(_text(category, place), place) for category in known}
        if slot.source is not None and None in categories:
            slot.source.missing_is_none = True
        return [float(MISSING if is_absent(category) else codes[category]) for category in categories]
    slot.number(place)
    if slot.source is not None and any(isinstance(category, (bool, np.bool_)) for category in known):
        slot.source.has_booleans = True
    return [math.nan if is_absent(category) else _number(category, place) for category in categories]


def is_absent(value: Any) -> bool:
    """Whether scikit-learn stores a missing value by this one."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def _text(category: Any, place: str) -> str:
    if not isinstance(category, str):
        raise refusal(place, f"the category {category!r} of a column of texts is none")
    return str(category)


def _number(category: Any, place: str) -> float:
    if not isinstance(category, (bool, int, float, np.bool_, np.integer, np.floating)):
        raise refusal(place, f"the category {category!r} is neither a text nor a number")
    return float(category)


def _missing_value(slot: Slot) -> float:
    return float(MISSING) if slot.is_category else math.nan


def _knows_missing(slot: Slot, categories: Sequence[float]) -> bool:
    absent = _missing_value(slot)
    return any(_same(value, absent) for value in categories)


def _same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))
