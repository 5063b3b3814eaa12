"""How candidates are measured, and when a larger one pays."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """How candidates are measured."""

    folds: int = 5
    """Parts that the images are divided into; each is held out once."""
    minutes: float = 0.0
    """Time for the folds of this call, the winner's refit not included; 0: no limit."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds: expected at least 2, got {self.folds}")
        if self.minutes < 0:
            raise ValueError(f"minutes: expected at least 0, got {self.minutes}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a larger candidate pays, and when the search ends."""

    alpha: float = 0.05
    """A difference counts when the corrected t-test's p-value is below this."""
    min_gain: float = 0.002
    """A larger candidate must be better by this fraction, however sure the difference is."""
    patience: int = 1
    """Larger candidates in a row that may fail to pay; the next one that fails ends the search."""
    all: bool = False
    """Measure every candidate, whether larger ones pay or not."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected between 0 and 1, got {self.alpha}")
        if not 0 <= self.min_gain < 1:
            raise ValueError(f"min_gain: expected 0 to 1, got {self.min_gain}")
        if self.patience < 0:
            raise ValueError(f"patience: expected at least 0, got {self.patience}")
