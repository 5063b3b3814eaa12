"""A kind of output: one number."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.output import CalibrationSpec, OutputSpec


@dataclass(frozen=True, kw_only=True)
class NumberCalibration(CalibrationSpec):
    """What was added on validation rows."""

    kind: Literal["number"] = "number"
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NumberSpec(OutputSpec):
    """The number."""

    kind: Literal["number"] = "number"
    unit: str = ""
    calibration: NumberCalibration = field(default_factory=NumberCalibration)

    def create(self, variant: Any, folder: Path) -> "Number":
        return Number(variant.calibration or self.calibration)

    def check_names(self, names: tuple[str, ...]) -> None:
        if names != ("value",):
            raise ValueError(f"expected value, got {', '.join(names)}")

    def describe(self) -> dict[str, Any]:
        return {"unit": self.unit}


@dataclass(frozen=True)
class Answer:
    """One number."""

    value: float

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value}

    golden = as_json

    def observations(self) -> tuple[()]:
        return ()


@dataclass(frozen=True)
class Number:
    """See the protocol."""

    calibration: NumberCalibration

    def read(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"value": arrays["value"][:, 0].astype(np.float64)}

    def predictions(self, arrays: dict[str, np.ndarray]) -> list[Answer]:
        return [Answer(float(value) + self.calibration.offset) for value in arrays["value"]]

    def differences(self, arrays: Any, others: Any, by: Any = None) -> np.ndarray:
        return np.abs(arrays["value"] - others["value"])

    def agreement(self, arrays: Any, others: Any, by: Any = None) -> np.ndarray:
        return self.differences(arrays, others) < 1e-3

    def check_golden(self, expected: Mapping[str, Any]) -> None:
        float(expected["value"])

    def difference(self, expected: Mapping[str, Any], answer: Mapping[str, Any], tolerance: float) -> str | None:
        apart = abs(expected["value"] - answer["value"])
        return None if apart <= tolerance else f"expected {expected['value']}, got {answer['value']}"

    def zeros(self) -> list[Any]:
        return []


SPEC, CALIBRATION = NumberSpec, NumberCalibration
