"""Fitted transformers of scikit-learn -> torch modules of the same values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from marquee.training.importing.scikit_columns import column_transformer
from marquee.training.importing.scikit_encoders import one_hot, ordinal
from marquee.training.importing.scikit_imputer import simple_imputer
from marquee.training.importing.scikit_modules import FUNCTIONS, Apply, Products, Scale
from marquee.training.importing.scikit_slots import COMPUTED, Slot, complete, finite, fitted, numbers, refusal

Converted = tuple[nn.Module, list[Slot]]
"""The module of a step, and the slots of its output."""


def transformer(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    """Converts one step that is not the last.

    Args:
        estimator: the fitted transformer, or ``passthrough``.
        slots: of its input.
        place: of the step, for messages.

    Raises:
        UnsupportedError: it cannot be imported; the message says why, and what can.
    """
    if estimator is None or (isinstance(estimator, str) and estimator == "passthrough"):
        return nn.Identity(), list(slots)
    name = class_name(estimator)
    if name not in TRANSFORMERS:
        raise refusal(place, f"{name} cannot be imported; transformers that can: {', '.join(sorted(TRANSFORMERS))}")
    place = f"{place} ({name})"
    expected = getattr(estimator, "n_features_in_", None)
    if name not in ("Pipeline", "FunctionTransformer") and expected != len(slots):
        raise refusal(
            place, "is not fitted" if expected is None else f"takes {expected} columns, and gets {len(slots)}"
        )
    return TRANSFORMERS[name](estimator, slots, place)


def class_name(estimator: Any) -> str:
    """The name of an estimator's class; with its module where that is not scikit-learn's."""
    kind = type(estimator)
    return kind.__name__ if kind.__module__.split(".")[0] == "sklearn" else f"{kind.__module__}.{kind.__name__}"


def steps_of(pipeline: Any, place: str) -> list[tuple[str, Any]]:
    """The named steps of a Pipeline, at least one."""
    steps = getattr(pipeline, "steps", None)
    if not isinstance(steps, list) or not steps or not all(isinstance(step, (tuple, list)) for step in steps):
        raise refusal(place, "has no steps")
    return [(str(name), step) for name, step in steps]


def chain(steps: Sequence[tuple[str, Any]], slots: Sequence[Slot], place: str) -> Converted:
    """Converts transformers that follow each other."""
    modules: list[nn.Module] = []
    for name, step in steps:
        module, slots = transformer(step, slots, f"{place} > {name}")
        if not slots:
            raise refusal(f"{place} > {name}", "leaves no column")
        if not isinstance(module, nn.Identity):
            modules.append(module)
    return nn.Sequential(*modules), list(slots)


def _pipeline(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    return chain(steps_of(estimator, place), slots, place)


def _columns(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    return column_transformer(estimator, slots, place, transformer)


def _standard(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    return _scaled(estimator, slots, place, "mean_" if estimator.with_mean else "", "scale_")


def _robust(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    center, scale = estimator.with_centering, estimator.with_scaling
    return _scaled(estimator, slots, place, "center_" if center else "", "scale_" if scale else "")


def _max_abs(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    return _scaled(estimator, slots, place, "", "scale_", bool(getattr(estimator, "clip", False)))


def _scaled(
    estimator: Any, slots: Sequence[Slot], place: str, center: str, scale: str, clip: bool = False
) -> Converted:
    """The scaler with these attributes; "" for one that is not used."""
    module = scaler(estimator, len(slots), place, center, scale, (-1.0, 1.0) if clip else None)
    return module, [slot.computed() for slot in numbers(slots, place)]


def scaler(
    estimator: Any, width: int, place: str, center: str, scale: str, bounds: tuple[float, float] | None = None
) -> Scale:
    """(x - center) / scale of a fitted scaler of ``width`` columns."""
    shape = (width,)
    # StandardScaler without a deviation has the scale None.
    scales = bool(scale) and getattr(estimator, scale, 1) is not None
    return Scale(
        finite(estimator, center, place, shape) if center else np.zeros(shape),
        finite(estimator, scale, place, shape) if scales else np.ones(shape),
        bounds=bounds,
    )


def min_max_scaler(estimator: Any, width: int, place: str) -> Scale:
    """Scale and minimum of a fitted MinMaxScaler of ``width`` columns."""
    scale, low = finite(estimator, "scale_", place, (width,)), finite(estimator, "min_", place, (width,))
    if not scale.all():
        raise refusal(place, "scale_ has zeros")
    bounds = tuple(map(float, estimator.feature_range)) if estimator.clip else None
    return Scale(-low / scale, 1 / scale, bounds=bounds)  # type: ignore[arg-type]


def _min_max(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    return min_max_scaler(estimator, len(slots), place), [slot.computed() for slot in numbers(slots, place)]


def _polynomial(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    complete(slots, place)
    powers = fitted(estimator, "powers_", place)
    if powers.ndim != 2 or powers.shape[1] != len(slots) or not len(powers):
        raise refusal(place, f"powers_ has the shape {powers.shape} for {len(slots)} columns")
    if powers.min() < 0 or powers.max() > 20:
        raise refusal(place, "has powers below 0 or above 20")
    return Products(powers.astype(np.int64)), [COMPUTED] * len(powers)


def _function(estimator: Any, slots: Sequence[Slot], place: str) -> Converted:
    if estimator.func is None:
        return nn.Identity(), list(slots)
    module = function(estimator.func, estimator.kw_args, place)
    return module, [slot.computed() for slot in numbers(slots, place)]


def function(func: Any, arguments: Any, place: str) -> nn.Module:
    """One of the functions that are known; None does nothing."""
    if arguments:
        raise refusal(place, "its function has arguments, which cannot be imported")
    if func is None:
        return nn.Identity()
    known = {known.__name__: module for known, module in FUNCTIONS.items() if known is func}
    if not known:
        listed = ", ".join(f"numpy.{one.__name__}" for one in FUNCTIONS)
        name = getattr(func, "__name__", type(func).__name__)
        raise refusal(place, f"the function {name} cannot be imported; functions that can: {listed}")
    return Apply(next(iter(known.values())))


TRANSFORMERS: dict[str, Callable[[Any, Sequence[Slot], str], Converted]] = {
    "ColumnTransformer": _columns,
    "FunctionTransformer": _function,
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "OneHotEncoder": one_hot,
    "OrdinalEncoder": ordinal,
    "Pipeline": _pipeline,
    "PolynomialFeatures": _polynomial,
    "RobustScaler": _robust,
    "SimpleImputer": simple_imputer,
    "StandardScaler": _standard,
}
"""Class of scikit-learn -> what converts it."""
