"""The learning rates of the range test, and the file name of its plot."""

from dataclasses import dataclass
from pathlib import Path

from marquee.training.core.errors import TrainingError

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class RateRange:
    """The learning rates to try."""

    start: float = 1e-6
    """Learning rate of the first step."""
    stop: float = 1.0
    """Learning rate of the last step."""
    steps: int = 100
    """Number of training steps, one per rate."""

    def __post_init__(self) -> None:
        if not 0 < self.start < self.stop < float("inf"):
            raise ValueError(f"expected 0 < from < to, got from {self.start:g} to {self.stop:g}")
        if self.steps < 20:
            raise ValueError(f"steps: expected at least 20, got {self.steps}; fewer are too few to fit a slope")

    def rates(self) -> list[float]:
        """One rate per step, in geometric progression."""
        import numpy as np

        return [float(rate) for rate in np.geomspace(self.start, self.stop, self.steps)]


def check_plot_name(path: Path) -> None:
    """Raises TrainingError if the format of the plot is not supported; called before any work is done."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise TrainingError(f"{path}: expected a name that ends with {', '.join(PLOT_SUFFIXES)}")
