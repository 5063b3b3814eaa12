"""Measures points on a private server, and keeps what was measured."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from serving.archive import open_archive
from serving.errors import OperationError
from serving.tuning.journal import Journal
from serving.tuning.limit import InProcess, in_process
from serving.tuning.load import Endpoint, closed_loop
from serving.tuning.private import PrivateServer
from serving.tuning.result import Slice
from serving.tuning.space import Point, Space

FINAL_FACTOR = 2
"""A final slice is longer than a short one by this."""


class Meter:
    """What :func:`serving.tuning.search.search` measures with.

    The journal is asked first: a search that goes on finds there what it measured before, and needs no server for it.

    Args:
        space: of the points.
        server: the private server; started when the first measurement is due.
        bodies: encoded images.
        clients: requests that are under way at once.
        seconds: of a short slice.
        journal: of this archive, machine and load.
        say: told about each slice.
    """

    def __init__(
        self,
        space: Space,
        server: AbstractContextManager[PrivateServer],
        bodies: Sequence[bytes],
        clients: int,
        seconds: float,
        journal: Journal,
        say: Callable[[str], None],
    ) -> None:
        self._space, self._entering, self._bodies = space, server, bodies
        self._clients, self._seconds = clients, seconds
        self._journal, self._say = journal, say
        self._server: PrivateServer | None = None
        self._finalists: dict[str, Endpoint] = {}
        self._finals: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, points: Sequence[Point], final: bool) -> list[Slice]:
        """See :class:`serving.tuning.search.Measure`."""
        return [self._final(point) if final else self._short(point) for point in points]

    def compare_in_process(self, point: Point, archive: Path, device: str, rounds: int) -> list[tuple[float, float]]:
        """Throughput behind the server and in process, images a second, one after the other in each round.

        Raises:
            OperationError: the predictor cannot be loaded.
        """
        variant, workers, threads = str(point["variant"]), int(point["workers"]), int(point["threads"])
        # A closed loop of this many clients never fills a larger batch.
        batch = max(1, min(int(point["batch"]), self._clients // workers))
        found = []
        with ExitStack() as stack:
            processes: InProcess | None = None
            for number in range(rounds):
                served = self._kept(point, f"limit {number}", lambda: self._load(self._endpoint(point), 1))
                alone = self._journal.find(point, f"in process {number}")
                if alone is None:
                    if processes is None:
                        folder = stack.enter_context(open_archive(archive))
                        processes = stack.enter_context(
                            in_process(folder, variant, device, workers, threads, batch, self._bodies)
                        )
                    images = processes.throughput(self._seconds)
                    alone = Slice(seconds=self._seconds, throughput=images, p50_ms=0, p95_ms=0, p99_ms=0)
                    self._journal.append(point, f"in process {number}", alone)
                found.append((served.throughput, alone.throughput))
        return found

    def _short(self, point: Point) -> Slice:
        def measure() -> Slice:
            with self._serve().model(self._space.config(point), int(point["workers"])) as endpoint:
                return self._load(endpoint, 1)

        return self._kept(point, "short", measure)

    def _final(self, point: Point) -> Slice:
        number = self._finals[point.key] = self._finals.get(point.key, -1) + 1
        return self._kept(point, f"final {number}", lambda: self._load(self._endpoint(point), FINAL_FACTOR))

    def _endpoint(self, point: Point) -> Endpoint:
        """Where a finalist is served; all of them stay loaded, so that measuring in turn costs no start."""
        if point.key not in self._finalists:
            model = self._serve().model(self._space.config(point), int(point["workers"]))
            self._finalists[point.key] = self._stack.enter_context(model)
        return self._finalists[point.key]

    def _serve(self) -> PrivateServer:
        if self._server is None:
            self._server = self._stack.enter_context(self._entering)
        return self._server

    def _load(self, endpoint: Endpoint, factor: float) -> Slice:
        return Slice.of(closed_loop(endpoint, self._bodies, self._clients, factor * self._seconds))

    def _kept(self, point: Point, stage: str, measure: Callable[[], Slice]) -> Slice:
        """The slice of the journal, or a new one that goes into it."""
        if kept := self._journal.find(point, stage):
            return kept
        try:
            measured = measure()
        except OperationError as error:
            # A setting that cannot be served is an answer; a server that has died is none.
            if self._server is None or not self._server.is_running():
                raise
            measured = Slice(failure=" ".join(str(error).split()))
        self._journal.append(point, stage, measured)
        what = measured.failure or f"{measured.throughput:.1f} answers/s, p99 {measured.p99_ms:.1f} ms"
        self._say(f"{stage}: {point}: {what}")
        return measured
