"""Progressive resizing: training begins with smaller images, which cost less, and ends with full-size ones.

The schedule is that of MosaicML Composer's method of the same name: small for half of the steps, then growing, and at
full size for the last fifth, in which the network adapts to the size that is served.
"""

import torch

from marquee.training.tasks.image_classification.config import FULL_SHARE

SMALL_SHARE = 0.5
"""Share of all steps at the smallest size."""
_SIDES = 8
"""Sides are multiples of the full side divided by this: kernels are prepared, or compiled, for each shape."""


class ProgressiveResizing:
    """Shrinks the batches of early steps; a pure function of the step, so that a resumed run uses the same sizes.

    Args:
        start: side of the first images as a share of ``size``; 1: nothing is resized.
        size: side of the model's input in pixels.
        steps: steps of the whole run.
    """

    def __init__(self, start: float, size: int, steps: int) -> None:
        self._start, self._size, self._steps = start, size, steps

    def side(self, step: int) -> int:
        """Side in pixels of the images of ``step``, 0 for the first."""
        grown = (step / self._steps - SMALL_SHARE) / (1 - FULL_SHARE - SMALL_SHARE)
        share = self._start + (1 - self._start) * min(1.0, max(0.0, grown))
        if share >= 1:
            return self._size
        unit = max(1, self._size // _SIDES)
        return min(self._size, max(unit, round(self._size * share / unit) * unit))

    def sides(self) -> list[int]:
        """Every side that a run uses, except for the full one."""
        unit = max(1, self._size // _SIDES)
        smallest = ProgressiveResizing(self._start, self._size, 1).side(0)
        return list(range(smallest, self._size, unit))

    def __call__(self, pixels: torch.Tensor, step: int) -> torch.Tensor:
        """uint8, or mixed float in 0..255, (N, size, size, C) -> the same type (N, side, side, C)."""
        side = self.side(step)
        if side == self._size:
            return pixels
        from torchvision.transforms.v2 import functional  # takes seconds to import, and few runs need it

        small: torch.Tensor = functional.resize(pixels.permute(0, 3, 1, 2), [side, side], antialias=True)
        return small.permute(0, 2, 3, 1)
