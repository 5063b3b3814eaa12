"""Which learning rates the range test tries, and where its plot goes."""

from dataclasses import dataclass
from pathlib import Path

from marquee.training.errors import TrainingError

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True, kw_only=True)
class RateRange:
    """Which learning rates are tried."""

    start: float = 1e-6
    """Rate of the first step."""
    stop: float = 1.0
    """Rate of the last step."""
    steps: int = 100
    """Training steps, one a rate."""

    def __post_init__(self) -> None:
        if not 0 < self.start < self.stop < float("inf"):
            raise ValueError(f"expected 0 < from < to, got from {self.start:g} to {self.stop:g}")
        if self.steps < 20:
            raise ValueError(f"steps: expected at least 20, got {self.steps}; fewer show no slope")

    def rates(self) -> list[float]:
        """One rate a step, each the same factor above the one before."""
        import numpy as np

        return [float(rate) for rate in np.geomspace(self.start, self.stop, self.steps)]


def check_plot_name(path: Path) -> None:
    """Raises TrainingError for a plot that could not be written, before any work is done for it."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise TrainingError(f"{path}: expected a name that ends with {', '.join(PLOT_SUFFIXES)}")
