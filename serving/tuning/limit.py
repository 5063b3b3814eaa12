"""The in-process limit: the predictor that serves, with the same workers, threads and batches, without any server."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from marquee.handlers.errors import BundleError
from marquee.serving.errors import OperationError

_WARM_BATCHES = 3


class InProcess:
    """Processes that hold a loaded predictor each.

    Args:
        connections: one a process.
    """

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections

    def throughput(self, seconds: float) -> float:
        """Images a second of all processes together, at work at once for some seconds.

        Raises:
            OperationError: a process has ended.
        """
        try:
            for connection in self._connections:
                connection.send(seconds)
            return sum(float(_receive(connection)) for connection in self._connections)
        except (EOFError, OSError) as error:
            raise OperationError("in process: a process ended unexpectedly; is there enough memory?") from error


@contextmanager
def in_process(
    folder: Path, variant: str, device: str, workers: int, threads: int, batch: int, bodies: Sequence[bytes]
) -> Iterator[InProcess]:
    """Loads a variant of the bundle ``folder`` in ``workers`` processes for the length of the block.

    Args:
        folder: a bundle.
        variant: name.
        device: ``cpu``, ``cuda:0``.
        workers: processes.
        threads: of each.
        batch: images of one call.
        bodies: encoded images, taken in turn.

    Raises:
        OperationError: it cannot be loaded.
    """
    context = multiprocessing.get_context("spawn")
    # As serving.server sets it for its workers; read when a process loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    processes, connections = [], []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            arguments = (theirs, folder, variant, device, threads, batch, list(bodies))
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            processes.append(process)
            connections.append(ours)
        try:
            for connection in connections:
                _receive(connection)
        except EOFError as error:
            raise OperationError("in process: a process ended unexpectedly; is there enough memory?") from error
        yield InProcess(connections)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.kill()
            process.join()


def _receive(connection: Connection) -> float:
    answer = connection.recv()
    if isinstance(answer, BundleError):
        raise OperationError(f"in process: {answer}")
    return float(answer)


def _work(
    connection: Connection, folder: Path, variant: str, device: str, threads: int, batch: int, bodies: list[bytes]
) -> None:
    import torch  # heavy, and only this process needs it

    from marquee.handlers.predictor import Predictor

    torch.set_num_threads(threads)
    images = [bodies[i % len(bodies)] for i in range(max(batch, len(bodies)))]
    batches = [images[i : i + batch] for i in range(0, len(images) - batch + 1, batch)]
    try:
        predictor = Predictor.load(folder, device, variant)
        for number in range(_WARM_BATCHES):
            predictor.predict(batches[number % len(batches)])
        connection.send(0.0)
        while True:
            seconds = connection.recv()
            began, done = time.perf_counter(), 0
            while time.perf_counter() < began + seconds:
                predictor.predict(batches[done % len(batches)])
                done += 1
            connection.send(done * batch / (time.perf_counter() - began))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # an engine's library raises what it likes
        connection.send(BundleError(" ".join(str(error).split())))
