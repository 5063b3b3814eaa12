"""How candidates are measured, and when a larger one is worth its cost."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """How candidates are measured."""

    folds: int = 5
    """Number of cross-validation folds; each is held out once."""
    minutes: float = 0.0
    """Time limit in minutes for the folds of this call, not including the refit of the winner; 0: no limit."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds: expected at least 2, got {self.folds}")
        if self.minutes < 0:
            raise ValueError(f"minutes: expected at least 0, got {self.minutes}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a larger candidate is worth its cost, and when the search ends."""

    alpha: float = 0.05
    """Significance level: the p-value of the corrected t-test must be below this."""
    min_gain: float = 0.002
    """Smallest gain that justifies a larger candidate, as a fraction: in accuracy, or, where a number is predicted, in
    RMSE as a share of a constant answer's; a smaller gain does not, however significant it is."""
    patience: int = 1
    """Number of consecutive larger candidates that may fail to be preferred; the next failure ends the search."""
    all: bool = False
    """Measure every candidate, even when larger ones are not worth their cost."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected between 0 and 1, got {self.alpha}")
        if not 0 <= self.min_gain < 1:
            raise ValueError(f"min_gain: expected 0 to 1, got {self.min_gain}")
        if self.patience < 0:
            raise ValueError(f"patience: expected at least 0, got {self.patience}")
