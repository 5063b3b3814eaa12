"""One variant in a process of its own: its memory and the time to load it are its own, too."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from marquee.child import Child, ChildError, child
from marquee.handlers.predictor import Outputs, Predictor
from marquee.training.errors import OptimizeError
from marquee.training.memory import peak_bytes

_ENGINE_BATCH = 32
P = ParamSpec("P")
R = TypeVar("R")


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
        process: that loads it.

    Raises:
        OptimizeError: it cannot be loaded; the message says why.
    """

    def __init__(self, name: str, process: Child) -> None:
        self.name = name
        self._process = process
        self.loaded = self._ask(_loaded)

    def outputs(self, pixels: Path) -> Outputs:
        """Logits and distances for the uint8 (N, crop, crop, channels) of an ``.npy`` file.

        Raises:
            OptimizeError: the variant cannot answer.
        """
        return self._ask(_outputs, pixels)

    def time(self, pixels: Path, batch: int, seconds: float) -> np.ndarray:
        """Seconds of each call with ``batch`` images, float64 (calls,), at least one call."""
        return self._ask(_time, pixels, batch, seconds)

    def memory(self) -> int:
        """The most physical memory that the process has held, in bytes."""
        return self._ask(_memory)

    def _ask(self, function: Callable[Concatenate[Any, P], R], *arguments: P.args, **options: P.kwargs) -> R:
        try:
            return self._process.ask(function, *arguments, **options)
        except ChildError as error:
            name = f"variant {self.name!r}: "
            raise OptimizeError(name + str(error).removeprefix(name)) from error


@contextmanager
def variant_process(folder: Path, name: str, device: str, threads: int) -> Iterator[VariantProcess]:
    """Loads a variant of the bundle ``folder`` in a fresh process, for the length of the block.

    Raises:
        OptimizeError: it cannot be loaded; the message says why.
    """
    with child(_load, folder, name, device, threads) as process:
        yield VariantProcess(name, process)


def _load(folder: Path, name: str, device: str, threads: int) -> tuple[Predictor, Loaded]:
    torch.set_num_threads(threads)
    started = time.monotonic()
    predictor = Predictor.load(folder, device, name)
    side, channels = predictor.spec.image.crop, predictor.spec.image.channels
    predictor.outputs(np.zeros((1, side, side, channels), np.uint8))
    return predictor, Loaded(time.monotonic() - started, predictor.engine.kernels())


def _loaded(held: tuple[Predictor, Loaded]) -> Loaded:
    return held[1]


def _memory(_: tuple[Predictor, Loaded]) -> int:
    return peak_bytes()


def _outputs(held: tuple[Predictor, Loaded], path: Path) -> Outputs:
    predictor, pixels = held[0], np.load(path, mmap_mode="r")
    parts = [
        predictor.outputs(np.array(pixels[start : start + _ENGINE_BATCH]))
        for start in range(0, len(pixels), _ENGINE_BATCH)
    ]
    distances = [part.distances for part in parts if part.distances is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(distances) if distances else None)


def _time(held: tuple[Predictor, Loaded], path: Path, batch: int, seconds: float) -> np.ndarray:
    predictor, pixels = held[0], np.load(path, mmap_mode="r")
    images = [np.ascontiguousarray(pixels[i % len(pixels)]) for i in range(batch)]
    predictor.predict_arrays(images)  # the first call with a batch size sets the engine up for it
    durations: list[float] = []
    until = time.monotonic() + seconds
    while not durations or time.monotonic() < until:
        started = time.perf_counter()
        predictor.predict_arrays(images)
        durations.append(time.perf_counter() - started)
    return np.array(durations)
