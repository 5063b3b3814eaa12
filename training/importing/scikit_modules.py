"""Steps of scikit-learn pipelines as torch modules with float64 buffers: matrix (N, slots) -> matrix.

The matrix is that of :mod:`marquee.training.importing.scikit_slots`. No buffer is empty, since torch.export cannot save
one (2.14).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from marquee.handlers.inputs.table.spec import MISSING

FUNCTIONS: dict[Callable[..., object], Callable[[torch.Tensor], torch.Tensor]] = {
    np.log1p: torch.log1p,
    np.expm1: torch.expm1,
    np.log: torch.log,
    np.exp: torch.exp,
    np.log2: torch.log2,
    np.exp2: torch.exp2,
    np.log10: torch.log10,
    np.sqrt: torch.sqrt,
    np.square: torch.square,
    np.abs: torch.abs,
    np.sin: torch.sin,
    np.cos: torch.cos,
    np.tanh: torch.tanh,
}
"""Functions of numpy that an estimator may apply, and torch's of the same values."""


class Pick(nn.Module):
    """Some of the columns, in an order of their own."""

    columns: torch.Tensor

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(columns)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return values.index_select(1, self.columns)


class Beside(nn.Module):
    """The outputs of several modules for the same matrix, side by side."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.cat([part(values) for part in self.parts], dim=1)


class Fill(nn.Module):
    """Fills missing values.

    Args:
        fill: one value a column: a number, or the code of a category.
        categories: for each column whether it holds codes.
        marker: the number that stands for a missing one; NaN: none does, NaN itself is missing.
    """

    fill: torch.Tensor
    categories: torch.Tensor

    def __init__(self, fill: Sequence[float], categories: Sequence[bool], marker: float) -> None:
        super().__init__()
        self.register_buffer("fill", torch.tensor(list(fill), dtype=torch.float64))
        self.register_buffer("categories", torch.tensor(list(categories)))
        self._marker = None if np.isnan(marker) else marker

    def missing(self, values: torch.Tensor) -> torch.Tensor:
        """Where a value is missing, bool (N, columns)."""
        of_numbers = values.isnan() if self._marker is None else values == self._marker
        return torch.where(self.categories, values == MISSING, of_numbers)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.where(self.missing(values), self.fill, values)


class Indicated(nn.Module):
    """1 where a value is missing, for some of the columns."""

    columns: torch.Tensor

    def __init__(self, fill: Fill, columns: Sequence[int]) -> None:
        super().__init__()
        self.fill = fill
        self.register_buffer("columns", torch.tensor(list(columns)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.fill.missing(values).index_select(1, self.columns).to(torch.float64)


class Scale(nn.Module):
    """(x - center) / divisor + shift, within bounds; and the inverse."""

    center: torch.Tensor
    divisor: torch.Tensor

    def __init__(
        self,
        center: np.ndarray,
        divisor: np.ndarray,
        shift: float = 0.0,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor(center, dtype=torch.float64))
        self.register_buffer("divisor", torch.tensor(divisor, dtype=torch.float64))
        self._shift, self._bounds = float(shift), bounds

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        scaled = (values - self.center) / self.divisor + self._shift
        return scaled if self._bounds is None else scaled.clamp(*self._bounds)

    def inverse(self, scaled: torch.Tensor) -> torch.Tensor:
        """Scaled values of one column, (N,) -> values; bounds have no inverse, as in scikit-learn."""
        return (scaled - self._shift) * self.divisor + self.center


class Apply(nn.Module):
    """A function of each number."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self._function(values)


class Equals(nn.Module):
    """1 where a column has a certain value: float64 (N, columns) -> float64 (N, values).

    Args:
        columns: the column of each value.
        values: numbers or codes; NaN stands for a missing number.
    """

    columns: torch.Tensor
    values: torch.Tensor
    absent: torch.Tensor

    def __init__(self, columns: Sequence[int], values: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(columns)))
        self.register_buffer("values", torch.tensor(list(values), dtype=torch.float64))
        self.register_buffer("absent", torch.tensor(list(values), dtype=torch.float64).isnan())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        picked = values.index_select(1, self.columns)
        return ((picked == self.values) | (picked.isnan() & self.absent)).to(torch.float64)


class Ordinal(nn.Module):
    """Categories -> numbers.

    Args:
        equals: finds the categories.
        numbers: for each of them its number; NaN: a missing value stays missing.
        width: number of columns.
        unknown: the number of every other category.
    """

    numbers: torch.Tensor
    members: torch.Tensor
    absent: torch.Tensor

    def __init__(self, equals: Equals, numbers: Sequence[float], width: int, unknown: float) -> None:
        super().__init__()
        self.equals, self._unknown = equals, float(unknown)
        given = np.array(list(numbers), np.float64)
        members = np.zeros((len(given), width))
        members[np.arange(len(given)), equals.columns.numpy()] = 1
        self.register_buffer("members", torch.tensor(members))
        self.register_buffer("numbers", torch.tensor(members * np.nan_to_num(given)[:, None]))
        self.register_buffer("absent", torch.tensor(members * np.isnan(given)[:, None]))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        found = self.equals(values)
        numbers = torch.where(found @ self.members > 0, found @ self.numbers, self._unknown)
        return torch.where(found @ self.absent > 0, torch.nan, numbers)


class Products(nn.Module):
    """Products of columns.

    Args:
        powers: int (outputs, columns), the exponent of each column in each product.
    """

    factors: torch.Tensor

    def __init__(self, powers: np.ndarray) -> None:
        super().__init__()
        ones = powers.shape[1]  # the position of a column of ones, which is put behind the others
        lists = [np.repeat(np.arange(ones), exponents).tolist() for exponents in powers]
        degree = max(1, *map(len, lists))
        padded = [factors + [ones] * (degree - len(factors)) for factors in lists]
        self.register_buffer("factors", torch.tensor(padded).T.contiguous())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        extended = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
        result = extended.index_select(1, self.factors[0])
        for factor in self.factors[1:]:
            result = result * extended.index_select(1, factor)
        return result


class Linear(nn.Module):
    """x W^T + b in float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float64))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """float64 (N, inputs) -> float64 (N, outputs)."""
        return nn.functional.linear(values, self.weight, self.bias)


class AsPair(nn.Module):
    """The decision value of two classes, (N, 1) -> their logits (N, 2), whose softmax is the logistic function."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.cat([torch.zeros_like(values), values], dim=1)


class OneVersusRest(nn.Module):
    """Decision values of one class against the others each -> logits whose softmax has their logistic functions in it.

    The probabilities are the logistic functions divided by their sum, as in scikit-learn.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return nn.functional.logsigmoid(values)


class Finite(nn.Module):
    """Replaces what is not finite, so that a row far outside of training cannot spoil the answers of others."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """See the class; such a row is reported as unlike those of training."""
        return torch.nan_to_num(values, nan=0.0, posinf=1e100, neginf=-1e100)
