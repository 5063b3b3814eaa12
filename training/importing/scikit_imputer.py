"""SimpleImputer, for columns of numbers and of categories."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from marquee.training.importing.scikit_encoders import is_absent
from marquee.training.importing.scikit_modules import Beside, Fill, Indicated, Pick
from marquee.training.importing.scikit_slots import COMPUTED, Slot, refusal


def simple_imputer(estimator: Any, slots: Sequence[Slot], place: str) -> tuple[nn.Module, list[Slot]]:
    """Converts a SimpleImputer; columns without any value in its training are left out, as it does.

    Raises:
        UnsupportedError: it is not fitted, or has a marker of missing values that cannot be imported.
    """
    statistics = getattr(estimator, "statistics_", None)
    if statistics is None or len(statistics) != len(slots):
        raise refusal(place, f"is not fitted for {len(slots)} columns")
    marker = _marker(estimator, slots, place)
    kept = [number for number, fill in enumerate(statistics) if not is_absent(fill) or estimator.keep_empty_features]
    values = [_fill(slot, fill, place) for slot, fill in zip(slots, statistics, strict=True)]
    fill = Fill(values, [slot.is_category for slot in slots], marker)
    outputs = [_filled(slots[number], marker) for number in kept]
    parts = [nn.Sequential(fill, Pick(kept))] if kept else []
    if estimator.add_indicator and len(indicated := list(estimator.indicator_.features_)):
        parts.append(nn.Sequential(Indicated(fill, [int(number) for number in indicated])))
        outputs += [COMPUTED] * len(indicated)
    return (Beside(parts) if parts else nn.Identity()), outputs


def _marker(estimator: Any, slots: Sequence[Slot], place: str) -> float:
    """The number that stands for a missing one; NaN where missing values are NaN or None."""
    marker = estimator.missing_values
    if is_absent(marker):
        if marker is None:
            for slot in slots:
                if slot.source is not None:
                    slot.source.missing_is_none = True
        return math.nan
    if isinstance(marker, (int, float, np.integer, np.floating)):
        return float(marker)
    raise refusal(place, f"missing_values={marker!r} cannot be imported; NaN, None or a number can")


def _fill(slot: Slot, fill: Any, place: str) -> float:
    """What stands in the matrix for a missing value of this column."""
    if isinstance(fill, str):
        return float(slot.code(fill, place))
    if is_absent(fill):  # a column that is left out, or has the fill of the strategy
        return 0.0
    slot.number(place)
    if not isinstance(fill, (bool, int, float, np.bool_, np.integer, np.floating)):
        raise refusal(place, f"fills missing values with {fill!r}, which is neither a text nor a number")
    return float(fill)


def _filled(slot: Slot, marker: float) -> Slot:
    """The slot without missing values; where a number stands for them, those of the table stay missing."""
    if slot.is_category:
        return replace(slot, may_be_missing=False)
    return replace(slot.computed(), may_be_missing=slot.may_be_missing and not math.isnan(marker))
