"""A number, with an interval that contains the truth as often as it says."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from ..core.arrays import Arrays
from ..core.counters import Family, Increment, Observation, zeros
from ..core.errors import BundleError
from ..core.oip.metadata import VARIABLE, OutputTensor
from ..core.output import CalibrationSpec, OutputSpec
from .outside import OUTSIDE, names_outside, read_outside

if TYPE_CHECKING:
    from ..core.spec import ModelSpec, VariantSpec

VALUE = "value"
"""Array of an engine: float64 or float32 (N,), in the target's unit."""

UNFAMILIAR = Family(name="marquee_unfamiliar_total")
_UNFAMILIAR = Observation(UNFAMILIAR)


@dataclass(frozen=True, kw_only=True)
class RegressionCalibration(CalibrationSpec):
    """The width of the intervals, by split conformal prediction (Lei et al., 2018) on validation items."""

    kind: Literal["regression"] = "regression"
    level: float = 0.9
    """Share of intervals that contain the truth, for items like those of validation."""
    half_width: float | None = None
    """Half of the interval's width, in the target's unit. None: there were too few validation items for this level."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level: expected a number between 0 and 1, got {self.level}")
        if self.half_width is not None and self.half_width < 0:
            raise ValueError(f"half_width: expected at least 0, got {self.half_width}")


@dataclass(frozen=True, kw_only=True)
class RegressionSpec(OutputSpec):
    """How a program's number becomes an answer."""

    quality: ClassVar[str] = "R2"

    kind: Literal["regression"] = "regression"
    target: str
    """Name of what is predicted."""
    unit: str = ""
    """Its unit, for people."""
    low: float
    """Smallest value of the target that training saw."""
    high: float
    """Largest value of the target that training saw."""
    columns: tuple[str, ...] = ()
    """Names of the features, in the order of the engine's array ``outside``."""
    calibration: RegressionCalibration = field(default_factory=RegressionCalibration)
    """The first variant's, and that of variants without one of their own."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low: expected less than high ({self.high}), got {self.low}")

    @property
    def range(self) -> float:
        """The unit in which tolerances are about differences: the range of the target that training saw."""
        return self.high - self.low

    def create(self, variant: "VariantSpec", folder: Path | None) -> "Regression":
        """See :class:`marquee.handlers.core.output.OutputSpec`."""
        return Regression(self, variant)

    def check_names(self, names: tuple[str, ...]) -> None:
        """Raises ValueError for anything but a value, with or without ``outside``."""
        if names not in ((VALUE,), (VALUE, OUTSIDE)):
            raise ValueError(f"expected {VALUE}, with or without {OUTSIDE}, got {', '.join(names)}")

    def describe(self) -> dict[str, Any]:
        """What is predicted."""
        return {"target": self.target, **({"unit": self.unit} if self.unit else {}), "low": self.low, "high": self.high}

    def tensors(self, variant: "VariantSpec") -> Sequence[OutputTensor]:
        """See :class:`marquee.handlers.core.output.OutputSpec`."""
        fitted = variant.calibration or self.calibration
        tensors = [OutputTensor(name="prediction", datatype="FP64", read=attrgetter("value"), empty=math.nan)]
        if getattr(fitted, "half_width", None) is not None:
            ends = (VARIABLE, 2)  # low, high
            read = attrgetter("interval")
            tensors.append(OutputTensor(name="interval", datatype="FP64", shape=ends, read=read, empty=math.nan))
        if OUTSIDE in variant.outputs:
            # Of an item without an answer nothing should be used, either.
            tensors.append(OutputTensor(name="unfamiliar", datatype="BOOL", read=_is_unfamiliar, empty=True))
        return tensors


def _is_unfamiliar(answer: "Prediction") -> bool:
    return bool(answer.unfamiliar)


class Prediction(NamedTuple):
    """The answer for one item."""

    value: float
    """In the target's unit."""
    interval: tuple[float, float] | None
    """Lower and upper end."""
    level: float
    """Share of such intervals that contain the truth."""
    unfamiliar: tuple[str, ...]
    """Features in which the item lies outside of what training saw."""

    def as_json(self) -> dict[str, Any]:
        """As it goes over the wire."""
        answer: dict[str, Any] = {"value": self.value}
        if self.interval is not None:
            answer["interval"] = {"low": self.interval[0], "high": self.interval[1], "level": self.level}
        answer["unfamiliar"] = list(self.unfamiliar)
        return answer

    def golden(self) -> dict[str, Any]:
        """As a golden answer stores it."""
        return self.as_json()

    def observations(self) -> Sequence[Observation]:
        """Counts items that lie outside of what training saw."""
        return (_UNFAMILIAR,) if self.unfamiliar else ()


class Regression:
    """See :class:`marquee.handlers.core.output.Output`; tolerances are shares of the target's range in training."""

    def __init__(self, spec: RegressionSpec, variant: "VariantSpec") -> None:
        self.spec = spec
        fitted = variant.calibration or spec.calibration
        if not isinstance(fitted, RegressionCalibration):
            raise BundleError(f"variant {variant.name!r} has a calibration of kind {fitted.kind!r} for a regression")
        self.calibration = fitted

    def read(self, arrays: Arrays) -> Arrays:
        """``value``, float64 (N,); ``outside``, bool (N, columns), where the engine gives it."""
        value = arrays[VALUE].astype(np.float64)
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.ndim != 1:
            raise BundleError(f"the engine gave {VALUE} of shape {arrays[VALUE].shape}, expected one number an item")
        if not np.isfinite(value).all():
            raise BundleError("the engine gave values that are not finite")
        read = {VALUE: value}
        if OUTSIDE in arrays:
            read[OUTSIDE] = read_outside(arrays[OUTSIDE], self.spec.columns)
        return read

    def predictions(self, arrays: Arrays) -> list[Prediction]:
        """One a row; the interval has the same width for each."""
        values, level = arrays[VALUE], self.calibration.level
        outside = names_outside(arrays[OUTSIDE], self.spec.columns) if OUTSIDE in arrays else [()] * len(values)
        half = self.calibration.half_width
        intervals: Iterable[tuple[float, float] | None] = [None] * len(values)
        if half is not None:
            intervals = zip((values - half).tolist(), (values + half).tolist(), strict=True)
        return [
            Prediction(value, interval, level, names)
            for value, interval, names in zip(values.tolist(), intervals, outside, strict=True)
        ]

    def differences(self, arrays: Arrays, others: Arrays, by: "Regression | None" = None) -> np.ndarray:
        """float64 (N,): the difference of the values, as a share of the target's range."""
        result: np.ndarray = np.abs(arrays[VALUE] - others[VALUE]) / self.spec.range
        return result

    def agreement(self, arrays: Arrays, others: Arrays, by: "Regression | None" = None) -> np.ndarray:
        """Bool (N,): whether the values differ by at most a hundredth of the target's range."""
        result: np.ndarray = self.differences(arrays, others, by) <= 0.01
        return result

    def check_golden(self, expected: Mapping[str, Any]) -> None:
        """Raises ValueError, TypeError or KeyError where the answer is not one of :meth:`Prediction.golden`."""
        interval = expected.get("interval")
        ends = () if interval is None else (interval["low"], interval["high"])
        if not np.isfinite([float(number) for number in (expected["value"], *ends)]).all():
            raise ValueError("has a value that is not finite")
        if not isinstance(expected.get("unfamiliar", []), list):
            raise TypeError("has no list of unfamiliar features")

    def difference(self, expected: Mapping[str, Any], answer: Mapping[str, Any], tolerance: float) -> str | None:
        """See :meth:`marquee.handlers.core.output.Output.difference`."""
        allowed = tolerance * self.spec.range
        for name, golden, got in _numbers(expected, answer):
            if not (_is_number(golden) and _is_number(got) and abs(got - golden) <= allowed):
                return f"expected {name} {golden}, got {got} (tolerance {allowed:.2g})"
        golden_names, names = expected.get("unfamiliar", []), answer.get("unfamiliar", [])
        if golden_names != names:
            return f"expected unfamiliar {golden_names}, got {names}"
        return None

    def zeros(self) -> list[Increment]:
        """See :meth:`marquee.handlers.core.output.Output.zeros`."""
        return zeros(UNFAMILIAR)


def _numbers(expected: Mapping[str, Any], answer: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, golden, got) of every number of an answer."""
    numbers = [("value", expected["value"], answer.get("value"))]
    for end in ("low", "high"):
        golden, got = (_interval(side).get(end) for side in (expected, answer))
        if golden is not None or got is not None:
            numbers.append((f"interval.{end}", golden, got))
    return numbers


def _interval(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The interval of an answer; nothing where it has none."""
    interval = answer.get("interval")
    return interval if isinstance(interval, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def regression_of(spec: "ModelSpec") -> RegressionSpec:
    """The output of a model that gives a number.

    Raises:
        TypeError: it gives something else.
    """
    if not isinstance(spec.output, RegressionSpec):
        raise TypeError(f"expected a model that gives a number, got one of kind {spec.output.kind!r}")
    return spec.output


SPEC, CALIBRATION = RegressionSpec, RegressionCalibration
