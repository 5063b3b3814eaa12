"""Measures points on a private server."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from marquee.serving.archive import open_archive
from marquee.serving.errors import OperationError
from marquee.serving.tuning.limit import InProcess, in_process
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.tuning.private import PrivateServer
from marquee.serving.tuning.result import Trial
from marquee.serving.tuning.space import Params, Space

FINAL_FACTOR = 2
"""Length of a slice in the final divided by that of a short one."""


class TrialRunner:
    """Measures slices of load at points, and of the same work in process. Closing it stops what it has started.

    Args:
        space: the search space of the points.
        archive: the archive to try.
        server: the private server; it is started for the first slice.
        bodies: encoded images.
        clients: number of concurrent requests.
        seconds: length of a short slice.
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
        self._space, self._archive, self._server_context, self._bodies = space, archive, server, bodies
        self._clients, self._seconds, self._device = clients, seconds, device
        self._server: PrivateServer | None = None
        self._loaded: dict[Params, Endpoint] = {}
        self._processes: InProcess | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "TrialRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def take(self, point: Params, final: bool) -> Trial:
        """Measures one slice. Settings that cannot be served give a trial with a failure.

        Raises:
            OperationError: the private server cannot be started, or has ended.
        """
        try:
            if final:
                return self._measure(self._finalist(point), FINAL_FACTOR)
            with self._model(point) as endpoint:
                return self._measure(endpoint, 1)
        except OperationError as error:
            if self._server is None or not self._server.is_running():
                raise
            return Trial(failure=" ".join(str(error).split()))

    def take_in_process(self, point: Params) -> Trial:
        """The throughput of as many predictors as ``point`` has workers, without a server.

        All calls must be for the same point.

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
        throughput = self._processes.throughput(self._seconds)
        return Trial(seconds=self._seconds, throughput=throughput, p50_ms=0, p95_ms=0, p99_ms=0)

    def _finalist(self, point: Params) -> Endpoint:
        """The endpoint of a finalist; all of them stay loaded, so that measuring in turn needs no restarts."""
        if point not in self._loaded:
            self._loaded[point] = self._stack.enter_context(self._model(point))
        return self._loaded[point]

    def _model(self, point: Params) -> AbstractContextManager[Endpoint]:
        if self._server is None:
            self._server = self._stack.enter_context(self._server_context)
        return self._server.model(self._space.config(point), int(point["workers"]))

    def _measure(self, endpoint: Endpoint, factor: float) -> Trial:
        return Trial.of(closed_loop(endpoint, self._bodies, self._clients, factor * self._seconds))
