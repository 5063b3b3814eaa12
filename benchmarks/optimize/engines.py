"""Time one network in every engine and precision, side by side: batches of 1 and 8, each contender in its own process.

Example: python -m benchmarks.optimize.engines --arch resnet18
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import ROOT, WORK, main, tell
from benchmarks.optimize.contenders import CONTENDERS, SIDE, Call, make
from benchmarks.photographs import SIZE, write_photographs
from benchmarks.results import Series, add, origin, write_result
from marquee.training.core.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "optimize" / "results"
BATCHES = (1, 8)
_CALIBRATION = 64
_call: Call
_pixels: np.ndarray
"""Of a child."""


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Arguments."""

    arch: str = "resnet18"
    """Of timm; its weights are random, for they do not decide the speed."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Which ones; the first is what the others are compared with."""
    rounds: int = 5
    """Every round times each contender once, in turn."""
    seconds: float = 1.0
    """For each contender and batch size in a round."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.contenders) - set(CONTENDERS)):
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(CONTENDERS)}")
        if self.rounds < 1:
            raise ValueError(f"rounds: expected at least 1, got {self.rounds}")


def measure(settings: Engines) -> Path:
    """Times all contenders; returns the result file.

    Raises:
        TrainingError: a contender could not be built; the message says which.
    """
    source, series, spawn = origin(f"engines_{settings.arch}"), Series(), multiprocessing.get_context("spawn")
    files = write_photographs(WORK / "photos-calibration", SIZE, _CALIBRATION)
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        children = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in settings.contenders}
        kernels = {}
        for name, child in children.items():
            try:
                kernels[name] = child.submit(_build, name, settings.arch, folder, pixels).result()
            except Exception as error:  # an engine's library raises what it likes
                raise TrainingError(f"{name}: {error!r:.500}") from error
            tell(f"ready: {name}, kernels {kernels[name]}")
        for number in range(settings.rounds):
            for name, child in children.items():
                for batch in BATCHES:
                    seconds = child.submit(_time, batch, settings.seconds).result()
                    add(series, name, {f"images_per_second_{batch}": round(batch / seconds, 2)})
            tell(f"round {number + 1} of {settings.rounds}")
    used = {"arch": settings.arch, "side": SIDE, "seconds": settings.seconds, "kernels": kernels}
    return write_result(settings.results, source, used, series, settings.contenders[0])


def _build(name: str, arch: str, folder: Path, pixels: np.ndarray) -> dict[str, int]:
    """Makes this process a contender; its kernels."""
    global _call, _pixels
    own = folder / name.replace(" ", "-")
    own.mkdir()
    _pixels = pixels
    _call, kernels = make(name, arch, own, pixels)
    for batch in BATCHES:
        _call(pixels[:batch])
    return kernels


def _time(batch: int, seconds: float) -> float:
    """Median seconds of a call."""
    _call(_pixels[:batch])  # after a pause, caches are cold
    durations: list[float] = []
    until = time.monotonic() + seconds
    while not durations or time.monotonic() < until:
        started = time.perf_counter()
        _call(_pixels[:batch])
        durations.append(time.perf_counter() - started)
    return float(np.median(durations))


if __name__ == "__main__":
    main(measure, Engines, __doc__)
