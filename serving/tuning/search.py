"""The search: a coordinate search with short measurements, then a final in which the best are measured in turn.

It is independent of any server: it measures by calling a function.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from marquee.rounds import STEADY, spread
from marquee.serving.tuning.result import Goal, Measured, Trial
from marquee.serving.tuning.space import Dimension, Params, Space

logger = logging.getLogger(__name__)

MARGIN = 0.03
"""Relative improvement that a short measurement must show: less is noise."""
FINALISTS = 3
ROUNDS = 3


Measure = Callable[[Params, bool], Trial]
"""Measures one slice at a point; slices of the final (True) are longer."""


@dataclass
class SearchResult:
    """The result of a search."""

    start: Measured
    """The initial settings, as measured in the final if there was one."""
    best: Measured
    """The best of the final; it need not meet the goal."""
    swept: list[Measured] = field(default_factory=list)
    """Every point, with its single short slice, in the order of the trials."""
    finals: list[Measured] = field(default_factory=list)
    """The finalists with their slices, the start first; empty when nothing can be served."""
    complete: bool = True
    """False when time ran out before the search was complete."""
    reason: str = ""
    """Why the best was chosen; empty without a final."""

    @property
    def warning(self) -> str:
        """That the final was not steady; empty if it was."""
        served = [one for one in self.finals if one.failure is None and len(one.slices) > 1]
        spreads = {str(one.point): spread([trial.throughput for trial in one.slices]) for one in served}
        unsteady = {point: value for point, value in spreads.items() if value > STEADY}
        if not unsteady:
            return ""
        point = max(unsteady, key=unsteady.__getitem__)
        return (
            f"timings were not steady: the throughput of {point} varied by {unsteady[point]:.0%} over the rounds of "
            "the final, as where other work runs on the machine; tune again when it is quiet"
        )


def search(
    space: Space,
    start: Params,
    measure: Measure,
    goal: Goal,
    has_time: Callable[[bool], bool],
) -> SearchResult:
    """Looks for the best point.

    Args:
        space: all points.
        start: the initial point; it takes part in the final.
        measure: see :data:`Measure`.
        goal: decides which of two points is better.
        has_time: whether there is time for another point of the sweep, or (True) for another round of the final.
    """
    sweep = _Sweep(space, measure, goal, has_time)
    best = sweep.run(start)
    swept = list(sweep.seen.values())
    finalists = _finalists(swept, best, goal)
    result = SearchResult(start=swept[0], best=best, swept=swept, complete=not sweep.cut_short)
    if finalists:
        logger.info(f"final: {len(finalists)} settings in turn")
        result.finals = _final(finalists, measure, has_time)
        result.best, result.reason = goal.choose(result.finals)
        if result.start.failure is None:
            result.start = result.finals[0]
    return result


class _Sweep:
    """Searches one dimension after the other, until a pass over all of them brings no improvement."""

    def __init__(self, space: Space, measure: Measure, goal: Goal, has_time: Callable[[bool], bool]) -> None:
        self.seen: dict[Params, Measured] = {}
        self.cut_short = False
        self._space, self._measure, self._goal, self._has_time = space, measure, goal, has_time

    def run(self, start: Params) -> Measured:
        best = self._try(start)
        while not self.cut_short:
            previous = best
            for dimension in self._space.dimensions:
                best = self._walk(dimension, best)
            if best is previous:
                break
            logger.info(f"so far: {best.point}")
        return best

    def _walk(self, dimension: Dimension, best: Measured) -> Measured:
        """The best point along one dimension: numbers up and down as long as the result improves, all names."""
        origin = best.point
        for path in dimension.paths(origin[dimension.name]):
            for value in path:
                point = self._space.within_cores(origin.having(dimension.name, value))
                if point not in self.seen and not self._has_time(False):
                    self.cut_short = True
                    return best
                measured = self._try(point)
                if not self._goal.is_better(measured, best, MARGIN):
                    break
                best = measured
        return best

    def _try(self, point: Params) -> Measured:
        if point not in self.seen:
            self.seen[point] = Measured(point=point, slices=(self._measure(point, False),))
        return self.seen[point]


def _finalists(swept: Sequence[Measured], best: Measured, goal: Goal) -> list[Params]:
    """The initial point, the best, and the next best ones; without those that cannot be served."""
    served = [measured for measured in swept if measured.failure is None]
    finalists = [measured for measured in (swept[0], *([] if best is swept[0] else [best])) if measured in served]
    others = [measured for measured in served if measured not in finalists]
    while others and len(finalists) < FINALISTS:
        finalists.append(goal.best(others))
        others.remove(finalists[-1])
    return [finalist.point for finalist in finalists]


def _final(points: Sequence[Params], measure: Measure, has_time: Callable[[bool], bool]) -> list[Measured]:
    rounds: list[list[Trial]] = []
    while len(rounds) < ROUNDS and (not rounds or has_time(True)):
        rounds.append([measure(point, True) for point in points])
    return [
        Measured(point=point, slices=slices) for point, slices in zip(points, zip(*rounds, strict=True), strict=True)
    ]
