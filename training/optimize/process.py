"""Runs each variant in a separate process, so that its memory and loading time are measured separately."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from marquee.child import Child, ChildError, child
from marquee.handlers.core.arrays import Arrays, concatenate, rows, take
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.errors import OptimizeError
from marquee.training.tools.memory import peak_bytes

_ENGINE_BATCH = 32
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Loaded:
    """What was measured while loading."""

    seconds: float
    """Time from opening the files to the first answer."""
    kernels: dict[str, int]
    """See :meth:`marquee.handlers.core.engines.Engine.kernels`."""


class VariantProcess:
    """A loaded variant that computes outputs and is timed on demand.

    Args:
        name: the variant's name.
        process: the process that loads it.

    Raises:
        OptimizeError: the variant cannot be loaded; the message says why.
    """

    def __init__(self, name: str, process: Child) -> None:
        self.name = name
        self._process = process
        self.loaded = self._ask(_loaded)

    def outputs(self, inputs: Path) -> Arrays:
        """The variant's outputs for the arrays in the folder ``inputs`` (see :func:`save_inputs`).

        Raises:
            OptimizeError: the variant fails.
        """
        return self._ask(_outputs, inputs)

    def time(self, inputs: Path, batch: int, seconds: float) -> np.ndarray:
        """Seconds of each call with ``batch`` items, float64 (calls,): calls for ``seconds``, at least once."""
        return self._ask(_time, inputs, batch, seconds)

    def memory(self) -> int:
        """Peak physical memory of the process, in bytes."""
        return self._ask(_memory)

    def _ask(self, function: Callable[Concatenate[Any, P], R], *arguments: P.args, **options: P.kwargs) -> R:
        try:
            return self._process.ask(function, *arguments, **options)
        except ChildError as error:
            prefix = f"variant {self.name!r}: "
            raise OptimizeError(prefix + str(error).removeprefix(prefix)) from error


@contextmanager
def variant_process(folder: Path, name: str, device: str, threads: int) -> Iterator[VariantProcess]:
    """Loads a variant of the bundle ``folder`` in a new process, which ends with the ``with`` block.

    Raises:
        OptimizeError: the variant cannot be loaded; the message says why.
    """
    with child(_load, folder, name, device, threads) as process:
        yield VariantProcess(name, process)


def _load(folder: Path, name: str, device: str, threads: int) -> tuple[Predictor, Loaded]:
    torch.set_num_threads(threads)
    started = time.monotonic()
    predictor = Predictor.load(folder, device, name)
    predictor.outputs(predictor.spec.input.example(1))
    return predictor, Loaded(time.monotonic() - started, predictor.engine.kernels())


def _loaded(state: tuple[Predictor, Loaded]) -> Loaded:
    return state[1]


def _memory(_: tuple[Predictor, Loaded]) -> int:
    return peak_bytes()


def save_inputs(folder: Path, inputs: Arrays) -> None:
    """Writes each array to its own file in ``folder``, for the variants' processes to read."""
    folder.mkdir()
    for number, (name, values) in enumerate(inputs.items()):
        np.save(folder / f"{number}-{name}.npy", values, allow_pickle=False)


def _read_inputs(folder: Path) -> Arrays:
    """The arrays that :func:`save_inputs` wrote, in their order; memory-mapped, so that rows are read on access."""
    files = sorted(folder.iterdir())
    return {file.stem.partition("-")[2]: np.load(file, mmap_mode="r") for file in files}


def _outputs(state: tuple[Predictor, Loaded], path: Path) -> Arrays:
    predictor, inputs = state[0], _read_inputs(path)
    starts = range(0, rows(inputs), _ENGINE_BATCH)
    parts = (take(inputs, slice(start, start + _ENGINE_BATCH)) for start in starts)
    return concatenate([predictor.outputs({name: np.array(values) for name, values in part.items()}) for part in parts])


def _time(state: tuple[Predictor, Loaded], path: Path, batch: int, seconds: float) -> np.ndarray:
    predictor, saved = state[0], _read_inputs(path)
    inputs = {name: np.array(values[np.arange(batch) % len(values)]) for name, values in saved.items()}
    predictor.predict_arrays(inputs)  # warm-up: the engine prepares for a batch size at its first call
    durations: list[float] = []
    deadline = time.monotonic() + seconds
    while not durations or time.monotonic() < deadline:
        started = time.perf_counter()
        predictor.predict_arrays({name: values.copy() for name, values in inputs.items()})  # as if just collected
        durations.append(time.perf_counter() - started)
    return np.array(durations)
