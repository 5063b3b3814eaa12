"""The network of a table for an engine that computes in float32, such as OpenVINO on a CPU.

What is prepared in float64 elsewhere is computed here from the float32 parts of each number (see
:mod:`marquee.handlers.core.engines.float_parts`), so that a date, an identifier or a number just outside of what was
seen gets the answer that float64 gives.
"""

import copy
import math

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.engines.float_parts import PARTS, parts
from marquee.handlers.inputs.table.spec import UNSEEN, TableSpec
from marquee.training.core.errors import OptimizeError
from marquee.training.tasks.tabular.network import LIMITS, Served, TabularNetwork
from marquee.training.tasks.tabular.preprocessing import NumberPreparation, order_of, ranges_of


def in_float32(network: TabularNetwork, spec: TableSpec) -> nn.Module:
    """What is exported (see :class:`Served`), in float32 and for numbers in parts: float32 (N, 3, columns).

    Args:
        network: in eval mode; not modified.
        spec: the columns.

    Raises:
        OptimizeError: a column has no deviation in float32.
    """
    served = Served(copy.deepcopy(network), spec)
    if network.numbers is not None:
        served.network.add_module("numbers", NumbersInParts(network.numbers, spec))
    served.network.dtype = torch.float32
    served.network.float()
    served.add_module("outside", OutsideInParts(spec))
    return served.eval()


class NumbersInParts(nn.Module):
    """As :class:`NumberPreparation`, of numbers in parts: float32 (N, 3, columns) -> float32 (N, columns + indicators).

    Fill and bounds are prepared once instead of with each row; this gives the same, for scaling keeps the order.
    """

    center: torch.Tensor
    scale: torch.Tensor
    fill: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    indicated: torch.Tensor

    def __init__(self, fitted: NumberPreparation, spec: TableSpec) -> None:
        super().__init__()
        scale = fitted.scale.float()
        for column, value, exact in zip(spec.numeric, scale.tolist(), fitted.scale.tolist(), strict=True):
            if value == 0 or not math.isfinite(value):
                raise OptimizeError(f"column {column.name!r}: its scale, {exact:g}, has no float32")
        self.register_buffer("center", _in_parts(fitted.center))
        self.register_buffer("scale", scale)
        limit = LIMITS[torch.float32]
        for name in ("fill", "low", "high"):
            prepared = (getattr(fitted, name) - fitted.center) / fitted.scale
            self.register_buffer(name, prepared.clamp(-limit, limit).float())
        self._indicates = fitted.width > len(scale)
        if self._indicates:
            self.register_buffer("indicated", fitted.indicated)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """See the class."""
        missing = numbers[:, 0].isnan()
        prepared = (numbers - self.center).sum(dim=1) / self.scale
        prepared = torch.where(missing, self.fill, prepared).clamp(self.low, self.high)
        if self._indicates:
            prepared = torch.cat([prepared, missing.index_select(1, self.indicated).to(prepared.dtype)], dim=1)
        return prepared


class OutsideInParts(nn.Module):
    """As :class:`Outside`, of numbers in parts."""

    low: torch.Tensor
    high: torch.Tensor
    weights: torch.Tensor
    order: torch.Tensor

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        if spec.numeric:
            low, high = ranges_of(spec)
            self.register_buffer("low", _in_parts(low))
            self.register_buffer("high", _in_parts(high))
            # The sign of the first part that differs outweighs those of the others together.
            places = torch.tensor([2.0 ** (PARTS - 1 - place) for place in range(PARTS)])
            self.register_buffer("weights", places[None, :, None])
        order = order_of(spec)
        self._reorders = order != sorted(order)
        if self._reorders:
            self.register_buffer("order", torch.tensor(order))

    def forward(self, numbers: torch.Tensor | None, codes: torch.Tensor | None) -> torch.Tensor:
        """Float32 (N, 3, columns) and int64 (N, columns) -> uint8 (N, features); a missing value is not outside."""
        found = []
        if numbers is not None:
            beyond = torch.maximum(self._compare(self.low, numbers), self._compare(numbers, self.high))
            found.append((beyond > 0) & ~numbers[:, 0].isnan())
        if codes is not None:
            found.append(codes == UNSEEN)
        outside = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        return (outside.index_select(1, self.order) if self._reorders else outside).to(torch.uint8)

    def _compare(self, numbers: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Float32 (N, columns): positive where ``numbers`` are larger, 0 where they are equal, else negative."""
        return ((numbers - others).sign() * self.weights).sum(dim=1)


def _in_parts(values: torch.Tensor) -> torch.Tensor:
    """Float64 (columns,) -> float32 (1, 3, columns)."""
    return torch.from_numpy(parts(values.numpy()[None].astype(np.float64)))
