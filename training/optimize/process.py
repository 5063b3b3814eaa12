"""One variant in a process of its own: its memory and the time to load it are its own, too."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.errors import BundleError
from marquee.handlers.predictor import Outputs, Predictor
from marquee.training.errors import OptimizeError
from marquee.training.memory import peak_bytes

_ENGINE_BATCH = 32


@dataclass(frozen=True)
class Loaded:
    """What loading showed."""

    seconds: float
    """From the files to the first answer."""
    kernels: dict[str, int]
    """See :meth:`marquee.handlers.engines.Engine.kernels`."""


class VariantProcess:
    """A loaded variant that answers and is timed on demand.

    Args:
        name: of the variant.
        connection: to the process.
        loaded: what loading showed.
    """

    def __init__(self, name: str, connection: Connection, loaded: Loaded) -> None:
        self.name = name
        self.loaded = loaded
        self._connection = connection

    def outputs(self, pixels: Path) -> Outputs:
        """Logits and distances for the uint8 (N, crop, crop, channels) of an ``.npy`` file.

        Raises:
            OptimizeError: the variant cannot answer.
        """
        result: Outputs = self._ask("outputs", pixels)
        return result

    def time(self, pixels: Path, batch: int, seconds: float) -> np.ndarray:
        """Seconds of each call with ``batch`` images, float64 (calls,), at least one call."""
        result: np.ndarray = self._ask("time", pixels, batch, seconds)
        return result

    def memory(self) -> int:
        """The most physical memory that the process has held, in bytes."""
        result: int = self._ask("memory")
        return result

    def _ask(self, *command: Any) -> Any:
        try:
            self._connection.send(command)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise OptimizeError(
                f"variant {self.name!r}: its process ended unexpectedly; is there enough memory?"
            ) from error
        if isinstance(answer, Exception):
            raise OptimizeError(f"variant {self.name!r}: {answer}")
        return answer


@contextmanager
def variant_process(folder: Path, name: str, device: str, threads: int) -> Iterator[VariantProcess]:
    """Loads a variant of the bundle ``folder`` in a fresh process, for the length of the block.

    Raises:
        OptimizeError: it cannot be loaded; the message says why.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, folder, name, device, threads), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    try:
        try:
            loaded = ours.recv()
        except EOFError:
            process.join()
            raise OptimizeError(f"variant {name!r}: its process ended with code {process.exitcode}") from None
        if isinstance(loaded, Exception):
            raise OptimizeError(str(loaded))
        yield VariantProcess(name, ours, loaded)
    finally:
        ours.close()
        process.kill()
        process.join()


def _serve(connection: Connection, folder: Path, name: str, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        started = time.monotonic()
        predictor = Predictor.load(folder, device, name)
        side, channels = predictor.spec.image.crop, predictor.spec.image.channels
        predictor.outputs(np.zeros((1, side, side, channels), np.uint8))
        connection.send(Loaded(time.monotonic() - started, predictor.engine.kernels()))
    except Exception as error:  # an engine's library raises what it likes
        connection.send(BundleError(" ".join(str(error).split())))
        return
    commands: dict[str, Callable[..., Any]] = {"outputs": _outputs, "time": _time, "memory": lambda _: peak_bytes()}
    while True:
        try:
            command, *arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            connection.send(commands[command](predictor, *arguments))
        except Exception as error:
            connection.send(BundleError(" ".join(str(error).split())))


def _outputs(predictor: Predictor, path: Path) -> Outputs:
    pixels = np.load(path, mmap_mode="r")
    parts = [
        predictor.outputs(np.array(pixels[start : start + _ENGINE_BATCH]))
        for start in range(0, len(pixels), _ENGINE_BATCH)
    ]
    distances = [part.distances for part in parts if part.distances is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(distances) if distances else None)


def _time(predictor: Predictor, path: Path, batch: int, seconds: float) -> np.ndarray:
    pixels = np.load(path, mmap_mode="r")
    images = [np.ascontiguousarray(pixels[i % len(pixels)]) for i in range(batch)]
    predictor.predict_arrays(images)  # the first call with a batch size sets the engine up for it
    durations: list[float] = []
    until = time.monotonic() + seconds
    while not durations or time.monotonic() < until:
        started = time.perf_counter()
        predictor.predict_arrays(images)
        durations.append(time.perf_counter() - started)
    return np.array(durations)
