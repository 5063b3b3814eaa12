"""The choice: the simplest candidate that no larger one beats by enough to pay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.selection.statistics import Comparison, compare


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


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was found out about one candidate."""

    name: str
    pays: bool
    reference: str = ""
    """The candidate that it was compared with: the best simpler one, which is the choice before it."""
    comparison: Comparison | None = None
    """None for the first one."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where the ladder ends."""

    choice: str
    """Name of the chosen candidate; empty when none was measured."""
    steps: tuple[Step, ...]
    stop: bool
    """True when no larger candidate need be measured."""


def decide(accuracies: Mapping[str, Sequence[float]], rule: Rule) -> Decision:
    """Climbs the ladder.

    The choice moves to a larger candidate only when that one is better than the present choice, over the same folds, by
    at least ``min_gain`` and with ``p < alpha``.

    Args:
        accuracies: candidate -> accuracy of each fold, simple candidates first.
        rule: what pays.
    """
    choice, failures, steps = "", 0, []
    for name, values in accuracies.items():
        if not choice:
            choice = name
            steps.append(Step(name=name, pays=True))
            continue
        comparison = compare(values, accuracies[choice])
        # Accuracies are counts over counts: a gain of exactly min_gain is one, whatever the last bit says.
        gained = comparison.difference >= rule.min_gain or bool(np.isclose(comparison.difference, rule.min_gain))
        pays = gained and comparison.difference > 0 and comparison.p < rule.alpha
        steps.append(Step(name=name, pays=pays, reference=choice, comparison=comparison))
        choice, failures = (name, 0) if pays else (choice, failures + 1)
    return Decision(choice=choice, steps=tuple(steps), stop=not rule.all and failures > rule.patience)
