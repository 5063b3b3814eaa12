"""The in-process limit: the same predictor with the same workers, threads and batches, but without a server."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from marquee.child import Child, ChildError, child
from marquee.serving.errors import OperationError

_WARM_BATCHES = 3
_IMPORTS = ("torch", "marquee.handlers.core.predictor")


class InProcess:
    """Processes with one loaded predictor each.

    Args:
        processes: the child processes, which are loading it.

    Raises:
        OperationError: the predictor cannot be loaded.
    """

    def __init__(self, processes: Sequence[Child]) -> None:
        self._processes = processes
        self._ask_all(0.0)

    def throughput(self, seconds: float) -> float:
        """Images per second of all processes together, which work at the same time for ``seconds``.

        Raises:
            OperationError: a process has ended.
        """
        return sum(self._ask_all(seconds))

    def _ask_all(self, seconds: float) -> list[float]:
        try:
            for process in self._processes:
                process.submit(_throughput, seconds)
            return [process.result() for process in self._processes]
        except ChildError as error:
            raise OperationError(f"in process: {error}") from error


@contextmanager
def in_process(
    folder: Path, variant: str, device: str, workers: int, threads: int, batch: int, bodies: Sequence[bytes]
) -> Iterator[InProcess]:
    """Loads a variant of the bundle ``folder`` in ``workers`` processes, which end with the block.

    Args:
        folder: a bundle.
        variant: its name.
        device: ``cpu``, ``cuda:0``.
        workers: number of processes.
        threads: number of threads per process.
        batch: number of images per call.
        bodies: encoded images, taken in turn.

    Raises:
        OperationError: it cannot be loaded.
    """
    with ExitStack() as stack:
        arguments = (folder, variant, device, threads, batch, list(bodies))
        yield InProcess([stack.enter_context(child(_load, *arguments, imports=_IMPORTS)) for _ in range(workers)])


_Loaded = tuple[Any, list[list[bytes]]]
"""A predictor, and batches for it."""


def _load(folder: Path, variant: str, device: str, threads: int, batch: int, bodies: list[bytes]) -> _Loaded:
    import torch  # heavy, and only this process needs it

    from marquee.handlers.core.predictor import Predictor

    torch.set_num_threads(threads)
    images = [bodies[i % len(bodies)] for i in range(max(batch, len(bodies)))]
    batches = [images[i : i + batch] for i in range(0, len(images) - batch + 1, batch)]
    predictor = Predictor.load(folder, device, variant)
    for number in range(_WARM_BATCHES):
        predictor.predict(batches[number % len(batches)])
    return predictor, batches


def _throughput(loaded: _Loaded, seconds: float) -> float:
    """Images per second."""
    predictor, batches = loaded
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        predictor.predict(batches[count % len(batches)])
        count += 1
    return count * len(batches[0]) / (time.perf_counter() - started)
