"""Everything that is fitted on columns, as a module with float64 buffers: it is exported with the network.

Imputing, clipping, scaling and one-hot encoding are element-wise or comparisons, so their results do not depend on the
size of a batch. Statistics are those of numpy and scikit-learn (linear quantiles, population deviation), and equal
scikit-learn's to 1e-12.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from marquee.handlers.inputs.table.spec import FIRST_CATEGORY, MISSING, UNSEEN, TableSpec
from marquee.training.tasks.tabular.prepare_config import PrepareConfig


class NumberPreparation(nn.Module):
    """Imputes, clips and scales numbers: float64 (N, columns) -> float64 (N, columns + indicators).

    Args:
        fitted: one for each column.
    """

    fill: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    center: torch.Tensor
    scale: torch.Tensor
    indicated: torch.Tensor

    def __init__(self, fitted: "Sequence[FittedNumber]") -> None:
        super().__init__()
        for name in ("fill", "low", "high", "center", "scale"):
            self.register_buffer(name, torch.tensor([getattr(one, name) for one in fitted], dtype=torch.float64))
        indicated = [number for number, one in enumerate(fitted) if one.indicator]
        self._clips = any(math.isfinite(one.low) or math.isfinite(one.high) for one in fitted)
        self._indicates = bool(indicated)
        if indicated:  # torch.export cannot save every empty buffer (2.14)
            self.register_buffer("indicated", torch.tensor(indicated))
        self.width = len(fitted) + len(indicated)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """See the class; NaN is a missing number."""
        missing = numbers.isnan()
        prepared = torch.where(missing, self.fill, numbers)
        if self._clips:
            prepared = prepared.clamp(self.low, self.high)
        prepared = (prepared - self.center) / self.scale
        if self._indicates:
            indicators = missing.index_select(1, self.indicated).to(prepared.dtype)
            prepared = torch.cat([prepared, indicators], dim=1)
        return prepared


class OneHot(nn.Module):
    """Codes -> zeros and ones: int64 (N, columns) -> float64 (N, slots); a category that was never seen has zeros only.

    Args:
        slots: (column, code) of each slot.
    """

    columns: torch.Tensor
    codes: torch.Tensor

    def __init__(self, slots: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor([column for column, _ in slots]))
        self.register_buffer("codes", torch.tensor([code for _, code in slots]))
        self.width = len(slots)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return (codes.index_select(1, self.columns) == self.codes).to(torch.float64)


class Outside(nn.Module):
    """In which features a row lies outside of what training saw: uint8 (N, features), in the order of the table."""

    low: torch.Tensor
    high: torch.Tensor
    order: torch.Tensor

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        if spec.numeric:
            low, high = ranges_of(spec)
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        order = order_of(spec)
        self._reorders = order != sorted(order)
        if self._reorders:
            self.register_buffer("order", torch.tensor(order))

    def forward(self, numbers: torch.Tensor | None, codes: torch.Tensor | None) -> torch.Tensor:
        """See the class; a missing value is not outside."""
        parts = []
        if numbers is not None:
            parts.append((numbers < self.low) | (numbers > self.high))
        if codes is not None:
            parts.append(codes == UNSEEN)
        outside = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return (outside.index_select(1, self.order) if self._reorders else outside).to(torch.uint8)


def ranges_of(spec: TableSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest number that training saw, float64 (columns,); infinite for a column without them."""
    low = [-math.inf if column.low is None else column.low for column in spec.numeric]
    high = [math.inf if column.high is None else column.high for column in spec.numeric]
    return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)


def order_of(spec: TableSpec) -> list[int]:
    """The position of each feature, in the order of the table, among the numbers with the categories behind them."""
    joined = [column.name for column in (*spec.numeric, *spec.categorical)]
    return [joined.index(column.name) for column in spec.features]


@dataclass(frozen=True)
class FittedNumber:
    """What was fitted for one column of numbers."""

    fill: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    center: float = 0.0
    scale: float = 1.0
    indicator: bool = False


def fit_numbers(numbers: np.ndarray, spec: TableSpec, config: PrepareConfig) -> NumberPreparation:
    """Fits the preparation of the numbers.

    Args:
        numbers: float64 (N, columns) of the training rows; NaN is missing.
        spec: which columns may be missing.
        config: what is to be done.
    """
    columns = zip(spec.numeric, numbers.T, strict=True)
    return NumberPreparation(
        [fit_number(values, config, config.indicator and column.may_be_missing) for column, values in columns]
    )


def fit_number(values: np.ndarray, config: PrepareConfig, indicator: bool = False) -> FittedNumber:
    """Fits one column: the fill of missing values, then the bounds and the scale of all values, filled ones included.

    Args:
        values: float64 (N,); NaN is missing.
        config: what is to be done.
        indicator: whether a column tells which values were missing.
    """
    known = values[~np.isnan(values)]
    fill = _fill(known, config)
    filled = np.where(np.isnan(values), fill, values)
    low, high = _bounds(filled, config)
    center, scale = _scale(np.clip(filled, low, high), config.scale)
    return FittedNumber(fill, low, high, center, scale, indicator)


def _fill(known: np.ndarray, config: PrepareConfig) -> float:
    if config.impute == "constant" or len(known) == 0:
        return config.impute_value
    if config.impute == "most-frequent":
        distinct, counts = np.unique(known, return_counts=True)
        return float(distinct[counts.argmax()])
    if config.impute == "mean":
        return float(known.mean())
    if config.impute == "median":
        return float(np.median(known))
    return float(known.min() if config.impute == "min" else known.max())


def _bounds(values: np.ndarray, config: PrepareConfig) -> tuple[float, float]:
    if config.clip == "none":
        return -math.inf, math.inf
    if config.clip == "quantile":
        low, high = np.quantile(values, [config.clip_quantile, 1 - config.clip_quantile])
        return float(low), float(high)
    first, third = np.quantile(values, [0.25, 0.75])
    margin = config.clip_factor * (third - first)
    return float(first - margin), float(third + margin)


def _scale(values: np.ndarray, name: str) -> tuple[float, float]:
    """Center and scale; a constant column keeps the scale 1."""
    if name == "none":
        return 0.0, 1.0
    if name == "min-max":
        center, scale = float(values.min()), float(values.max() - values.min())
    elif name == "robust":
        first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
        center, scale = float(median), float(third - first)
    else:
        center = float(values.mean())
        scale = _deviation(values - center)
    # A deviation of rounding errors only is that of a constant column (scikit-learn 1.9 judges likewise).
    tiny = 10 * np.finfo(np.float64).eps * max(abs(center), 1e-300)
    return center, scale if scale > tiny else 1.0


def _deviation(distances: np.ndarray) -> float:
    """Root of the mean square, in units of the largest distance: the square of 1e200 would be infinite."""
    largest = float(np.abs(distances).max())
    return largest * float(np.sqrt(np.square(distances / largest).mean())) if largest else 0.0


def one_hot_slots(spec: TableSpec) -> list[tuple[int, int]]:
    """A slot for each category that training saw, and for missing values where there may be some."""
    return [
        (number, code)
        for number, column in enumerate(spec.categorical)
        for code in [
            *([MISSING] if column.may_be_missing else []),
            *range(FIRST_CATEGORY, FIRST_CATEGORY + len(column.categories)),
        ]
    ]


LARGEST_ANSWER = 1e30
"""Magnitude to which answers are limited where they are not clipped: one that is not finite would fail the answers
beside it. float32 has it, too."""


class TargetTransform(nn.Module):
    """The transform of a regression's target, and its inverse, clipped to the range that training saw.

    Args:
        center: subtracted from the target, or from its logarithm.
        scale: divides the difference.
        log: whether the logarithm of 1 + target is taken first.
        low: smallest answer.
        high: largest answer.
    """

    center: torch.Tensor
    scale: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(
        self,
        center: float = 0.0,
        scale: float = 1.0,
        log: bool = False,
        low: float = -LARGEST_ANSWER,
        high: float = LARGEST_ANSWER,
    ) -> None:
        super().__init__()
        for name, value in (("center", center), ("scale", scale)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        for name, value in (("low", low), ("high", high)):
            # Not in a checkpoint: whether answers are clipped may be changed when a run is resumed.
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64), persistent=False)
        self._log = log

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        """Target, float64 -> what the network is trained to give, float64."""
        return ((target.log1p() if self._log else target) - self.center) / self.scale

    def inverse(self, output: torch.Tensor) -> torch.Tensor:
        """The network's output -> the target, float64."""
        target = (output if output.dtype == torch.float64 else output.double()) * self.scale + self.center
        if self._log:
            target = target.expm1()
        return target.clamp(self.low, self.high)


def fit_target(targets: np.ndarray, name: str, clip: bool) -> TargetTransform:
    """Fits the transform on the targets of the training rows.

    Args:
        targets: float64 (N,).
        name: see :attr:`PrepareConfig.target`.
        clip: whether answers stay within the range of ``targets``.

    Raises:
        ValueError: a target has no logarithm.
    """
    log = name == "log"
    if log and targets.min() <= -1:
        raise ValueError(f"prepare.target: log needs targets above -1, got {targets.min():g}")
    center, scale = _scale(np.log1p(targets) if log else targets, "standard" if name in ("auto", "log") else name)
    low, high = float(targets.min()), float(targets.max())
    if not clip:
        low, high = min(low, -LARGEST_ANSWER), max(high, LARGEST_ANSWER)
    return TargetTransform(center, scale, log, low, high)
