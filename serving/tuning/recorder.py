"""A measuring function that remembers: what the journal holds is not measured again."""

from collections.abc import Callable, Sequence

from marquee.serving.tuning.journal import Journal
from marquee.serving.tuning.result import Slice
from marquee.serving.tuning.space import Point


class Recorder:
    """What :func:`~marquee.serving.tuning.search.search` measures with.

    A search that begins again asks for the same slices in the same order, and gets from the journal what it measured
    before it was cut short.

    Args:
        journal: of this archive, machine and load.
        take: measures a slice of a point, a longer one for the final.
        say: told about each new slice.
    """

    def __init__(
        self, journal: Journal, take: Callable[[Point, bool], Slice], say: Callable[[str], None] = lambda line: None
    ) -> None:
        self._journal, self._take, self._say = journal, take, say
        self._finals: dict[str, int] = {}

    def __call__(self, points: Sequence[Point], final: bool) -> list[Slice]:
        """One slice a point, in their order."""
        return [self._one(point, final) for point in points]

    def keep(self, point: Point, stage: str, measure: Callable[[], Slice]) -> Slice:
        """The slice of the journal, or a new one that goes into it."""
        if kept := self._journal.find(point, stage):
            return kept
        measured = measure()
        self._journal.append(point, stage, measured)
        latency = f", p99 {measured.p99_ms:.1f} ms" if measured.p99_ms else ""
        what = measured.failure or f"{measured.throughput:.1f} answers/s{latency}"
        self._say(f"{stage}: {point}: {what}")
        return measured

    def _one(self, point: Point, final: bool) -> Slice:
        stage = "short"
        if final:
            number = self._finals[point.key] = self._finals.get(point.key, 0) + 1
            stage = f"final {number}"
        return self.keep(point, stage, lambda: self._take(point, final))
