"""The choice: the simplest candidate that no larger one beats by enough to be worth its cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marquee.training.selection.comparison import Comparison, compare
from marquee.training.selection.config import Rule

FIRST, PAYS, TOO_SMALL, UNCERTAIN = "the first", "pays", "gain too small", "gain not certain"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The verdict on one candidate."""

    name: str
    verdict: str
    """:data:`FIRST`, :data:`PAYS`, :data:`TOO_SMALL` or :data:`UNCERTAIN`."""
    reference: str = ""
    """The candidate that it was compared with: the choice among the simpler ones."""
    comparison: Comparison | None = None
    """None for the first candidate."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The choice, and whether the search can end."""

    choice: str
    """Name of the chosen candidate; empty when none was measured."""
    steps: tuple[Step, ...]
    stop: bool
    """True when no larger candidate needs to be measured."""


def decide(qualities: Mapping[str, Sequence[float]], rule: Rule, test_per_train: float | None = None) -> Decision:
    """Compares the candidates in order, each with the current choice.

    The choice moves to a larger candidate only if that candidate is better than the current choice, over the same
    folds, by at least ``min_gain`` and with ``p < alpha``.

    Args:
        qualities: candidate -> quality on each fold, such as its accuracy; larger is better. The simplest candidates
            come first.
        rule: when a larger candidate is preferred.
        test_per_train: see :func:`marquee.training.selection.comparison.compare`.
    """
    choice, failures, steps = "", 0, []
    for name, values in qualities.items():
        if not choice:
            choice = name
            steps.append(Step(name=name, verdict=FIRST))
            continue
        comparison = compare(values, qualities[choice], test_per_train)
        verdict = verdict_on(comparison, rule)
        steps.append(Step(name=name, verdict=verdict, reference=choice, comparison=comparison))
        choice, failures = (name, 0) if verdict == PAYS else (choice, failures + 1)
    return Decision(choice=choice, steps=tuple(steps), stop=not rule.all and failures > rule.patience)


def verdict_on(comparison: Comparison, rule: Rule) -> str:
    """:data:`PAYS`, :data:`TOO_SMALL` or :data:`UNCERTAIN`."""
    # The tolerance accepts a gain of exactly min_gain despite floating-point rounding.
    if comparison.difference <= 0 or comparison.difference < rule.min_gain - 1e-9:
        return TOO_SMALL
    return PAYS if comparison.p < rule.alpha else UNCERTAIN
