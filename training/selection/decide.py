"""The choice: the simplest candidate that no larger one beats by enough to pay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marquee.training.selection.config import Rule
from marquee.training.selection.statistics import Comparison, compare

FIRST, PAYS, TOO_SMALL, UNCERTAIN = "the first", "pays", "gain too small", "gain not certain"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was found out about one candidate."""

    name: str
    verdict: str
    """:data:`FIRST`, :data:`PAYS`, :data:`TOO_SMALL` or :data:`UNCERTAIN`."""
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
            steps.append(Step(name=name, verdict=FIRST))
            continue
        comparison = compare(values, accuracies[choice])
        verdict = _judge(comparison, rule)
        steps.append(Step(name=name, verdict=verdict, reference=choice, comparison=comparison))
        choice, failures = (name, 0) if verdict == PAYS else (choice, failures + 1)
    return Decision(choice=choice, steps=tuple(steps), stop=not rule.all and failures > rule.patience)


def _judge(comparison: Comparison, rule: Rule) -> str:
    # A gain of exactly min_gain is enough, whatever the last bit of a quotient says.
    if comparison.difference <= 0 or comparison.difference < rule.min_gain - 1e-9:
        return TOO_SMALL
    return PAYS if comparison.p < rule.alpha else UNCERTAIN
