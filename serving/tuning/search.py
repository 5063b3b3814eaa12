"""The search: one setting after the other with short measurements, then the best against each other, interleaved.

It knows no server: what it measures with is a function.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from marquee.serving.tuning.result import Goal, Measured, Slice
from marquee.serving.tuning.space import Dimension, Point, Space

logger = logging.getLogger(__name__)

MARGIN = 0.03
"""A short measurement must be better by this share: less is noise."""
FINALISTS = 3
ROUNDS = 3


Measure = Callable[[Point, bool], Slice]
"""One slice of a point; those of the final (True) are longer."""


@dataclass
class Found:
    """What a search brought."""

    start: Measured
    """The settings that the search began with, in the final when there was one."""
    best: Measured
    """The best of the final; it need not meet the goal."""
    swept: list[Measured] = field(default_factory=list)
    """Every point, with its one short slice, in the order in which they were tried."""
    finals: list[Measured] = field(default_factory=list)
    """The finalists with their slices, the start first; none when nothing can be served."""
    complete: bool = True
    """False when the time ended before the search did."""


def search(
    space: Space,
    start: Point,
    measure: Measure,
    goal: Goal,
    has_time: Callable[[bool], bool],
) -> Found:
    """Looks for the best point.

    Args:
        space: of all points.
        start: where to begin; it takes part in the final.
        measure: see :data:`Measure`.
        goal: what is better.
        has_time: whether there is time for another point of the sweep, or (True) for another round of the final.
    """
    sweep = _Sweep(space, measure, goal, has_time)
    best = sweep.run(start)
    swept = list(sweep.seen.values())
    finalists = _finalists(swept, best, goal)
    found = Found(start=swept[0], best=best, swept=swept, complete=not sweep.cut_short)
    if finalists:
        logger.info(f"final: {len(finalists)} settings in turn")
        found.finals = _final(finalists, measure, has_time)
        found.best = goal.best(found.finals)
        if found.start.failure is None:
            found.start = found.finals[0]
    return found


class _Sweep:
    """One dimension after the other, until none brings anything any more."""

    def __init__(self, space: Space, measure: Measure, goal: Goal, has_time: Callable[[bool], bool]) -> None:
        self.seen: dict[Point, Measured] = {}
        self.cut_short = False
        self._space, self._measure, self._goal, self._has_time = space, measure, goal, has_time

    def run(self, start: Point) -> Measured:
        best = self._try(start)
        while not self.cut_short:
            before = best
            for dimension in self._space.dimensions:
                best = self._walk(dimension, best)
            if best is before:
                break
            logger.info(f"so far: {best.point}")
        return best

    def _walk(self, dimension: Dimension, best: Measured) -> Measured:
        """The best along one dimension: up and down as long as it gets better, or every value where none are near."""
        origin = best.point
        for path in dimension.paths(origin[dimension.name]):
            for value in path:
                point = self._space.within_cores(origin.having(dimension.name, value))
                if point not in self.seen and not self._has_time(False):
                    self.cut_short = True
                    return best
                tried = self._try(point)
                if not self._goal.is_better(tried, best, MARGIN):
                    break
                best = tried
        return best

    def _try(self, point: Point) -> Measured:
        if point not in self.seen:
            self.seen[point] = Measured(point=point, slices=(self._measure(point, False),))
        return self.seen[point]


def _finalists(swept: Sequence[Measured], best: Measured, goal: Goal) -> list[Point]:
    """Where the search began, the best, and the next best; without those that cannot be served."""
    chosen = [one for one in (swept[0], *([] if best is swept[0] else [best])) if one.failure is None]
    rest = [one for one in swept if one not in chosen and one.failure is None]
    while rest and len(chosen) < FINALISTS:
        chosen.append(goal.best(rest))
        rest.remove(chosen[-1])
    return [one.point for one in chosen]


def _final(points: Sequence[Point], measure: Measure, has_time: Callable[[bool], bool]) -> list[Measured]:
    rounds: list[list[Slice]] = []
    while len(rounds) < ROUNDS and (not rounds or has_time(True)):
        rounds.append([measure(point, True) for point in points])
    return [
        Measured(point=point, slices=slices) for point, slices in zip(points, zip(*rounds, strict=True), strict=True)
    ]
