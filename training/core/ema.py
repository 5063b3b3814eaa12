"""A running average of the weights (Polyak and Juditsky, 1992), which is steadier than the weights themselves."""

from torch import nn


class WeightAverage:
    """The average; batch-norm statistics are averaged, too.

    Args:
        model: the model to average; its current weights are the initial average.
        decay: share of the old average that each step keeps. It rises to this value over the first steps, as
            1 - step ** (-2/3): otherwise, random initial weights would influence the average for a long time.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        from timm.utils import ModelEmaV3  # type: ignore[attr-defined]  # takes seconds to import

        self._average = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def module(self) -> nn.Module:
        """A model of the same kind with the averaged weights."""
        module: nn.Module = self._average.module
        return module

    def update(self, model: nn.Module, step: int) -> None:
        """Updates the average with the weights after ``step`` (0 for the first)."""
        self._average.update(model, step=step)
