"""Measures points on a private server."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from marquee.serving.archive import open_archive
from marquee.serving.errors import OperationError
from marquee.serving.tuning.limit import InProcess, in_process
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.tuning.private import PrivateServer
from marquee.serving.tuning.result import Slice
from marquee.serving.tuning.space import Point, Space

FINAL_FACTOR = 2
"""A final slice is longer than a short one by this."""


class Meter:
    """Slices of load on points, and of the same work in process. Closing it stops what it has started.

    Args:
        space: of the points.
        archive: that is tried.
        server: the private server; started when the first slice is due.
        bodies: encoded images.
        clients: requests that are under way at once.
        seconds: of a short slice.
        device: where the archive is served.
    """

    def __init__(
        self,
        space: Space,
        archive: Path,
        server: AbstractContextManager[PrivateServer],
        bodies: Sequence[bytes],
        clients: int,
        seconds: float,
        device: str,
    ) -> None:
        self._space, self._archive, self._entering, self._bodies = space, archive, server, bodies
        self._clients, self._seconds, self._device = clients, seconds, device
        self._server: PrivateServer | None = None
        self._loaded: dict[Point, Endpoint] = {}
        self._processes: InProcess | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def take(self, point: Point, final: bool) -> Slice:
        """One slice. A setting that cannot be served is an answer, too.

        Raises:
            OperationError: the private server cannot be started, or has ended.
        """
        try:
            if final:
                return self._load(self._stay(point), FINAL_FACTOR)
            with self._model(point) as endpoint:
                return self._load(endpoint, 1)
        except OperationError as error:
            if self._server is None or not self._server.is_running():
                raise
            return Slice(failure=" ".join(str(error).split()))

    def take_in_process(self, point: Point) -> Slice:
        """The throughput of as many predictors as ``point`` has workers, without a server; always of one point.

        Raises:
            OperationError: the predictor cannot be loaded.
        """
        if self._processes is None:
            folder = self._stack.enter_context(open_archive(self._archive))
            workers = int(point["workers"])
            # A closed loop of this many clients never fills a larger batch.
            batch = max(1, min(int(point["batch"]), self._clients // workers))
            variant, threads = str(point["variant"]), int(point["threads"])
            processes = in_process(folder, variant, self._device, workers, threads, batch, self._bodies)
            self._processes = self._stack.enter_context(processes)
        images = self._processes.throughput(self._seconds)
        return Slice(seconds=self._seconds, throughput=images, p50_ms=0, p95_ms=0, p99_ms=0)

    def _stay(self, point: Point) -> Endpoint:
        """Where a finalist is served; all of them stay loaded, so that measuring in turn costs no start."""
        if point not in self._loaded:
            self._loaded[point] = self._stack.enter_context(self._model(point))
        return self._loaded[point]

    def _model(self, point: Point) -> AbstractContextManager[Endpoint]:
        if self._server is None:
            self._server = self._stack.enter_context(self._entering)
        return self._server.model(self._space.config(point), int(point["workers"]))

    def _load(self, endpoint: Endpoint, factor: float) -> Slice:
        return Slice.of(closed_loop(endpoint, self._bodies, self._clients, factor * self._seconds))
