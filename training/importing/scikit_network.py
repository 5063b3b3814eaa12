"""A converted estimator in the form of a network of a table, so that it is exported, calibrated and served as one."""

from collections.abc import Sequence

import torch
from torch import nn

from marquee.handlers.inputs.table.spec import TableSpec
from marquee.training.importing.scikit_estimators import Model
from marquee.training.importing.scikit_modules import Finite
from marquee.training.importing.scikit_slots import Source
from marquee.training.tasks.tabular.network import TabularNetwork
from marquee.training.tasks.tabular.preprocessing import TargetTransform


class EstimatorNetwork(TabularNetwork):
    """Raw rows -> the estimator's numbers or logits, all in float64.

    Args:
        model: the converted estimator.
        spec: the columns of the table.
        sources: the columns that the estimator was fitted on, in its order.
    """

    order: torch.Tensor

    def __init__(self, model: Model, spec: TableSpec, sources: Sequence[Source]) -> None:
        nn.Module.__init__(self)  # a network that is trained builds its parts from a configuration
        self.dtype, self.labels = torch.float64, len(model.classes)
        self._columns = len(spec.numeric)
        self._arrays = bool(spec.numeric) + bool(spec.categorical)
        self._jitter = 0.0
        joined = [column.name for column in (*spec.numeric, *spec.categorical)]
        # What the estimator does not look at is a column of zeros, behind the others.
        positions = [joined.index(source.name) if source.name in joined else len(joined) for source in sources]
        self.register_buffer("order", torch.tensor(positions))
        self._pads = len(joined) in positions
        self.steps, self.body = model.steps, model.body
        self.target = EstimatorTarget(model.inverse)

    def features(self, numbers: torch.Tensor | None, codes: torch.Tensor | None) -> torch.Tensor:
        """Raw rows -> what the estimator's last step gets, float64."""
        parts = [part.to(torch.float64) for part in (numbers, codes) if part is not None]
        if self._pads:
            parts.append(torch.zeros_like(parts[0][:, :1]))
        matrix: torch.Tensor = self.steps(torch.cat(parts, dim=1).index_select(1, self.order))
        return matrix


class EstimatorTarget(TargetTransform):
    """The inverse of the transform that a TransformedTargetRegressor applies to the target."""

    def __init__(self, back: nn.Module) -> None:
        super().__init__()
        self.back, self.finite = back, Finite()

    def inverse(self, output: torch.Tensor) -> torch.Tensor:
        """The last step's numbers (N,) -> the target, float64."""
        values: torch.Tensor = self.finite(self.back(output))
        return values
