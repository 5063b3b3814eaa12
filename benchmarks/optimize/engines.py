"""Time one network in every engine and precision, side by side: batches of 1 and 8, each contender in its own process.

Example: python -m benchmarks.optimize.engines --arch resnet18
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from benchmarks import ROOT
from benchmarks.optimize.contenders import CONTENDERS, SIDE, make
from benchmarks.results import origin, write_result
from benchmarks.training.photos import write_photos
from marquee.commands.cli import run
from marquee.training.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "optimize" / "results"
BATCHES = (1, 8)
_CALIBRATION = 64


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
    json: bool = False
    """Print the result as one JSON object."""

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
    source = origin(f"engines_{settings.arch}", "benchmarks.optimize")
    pixels = _photos()
    series: dict[str, dict[str, list[float]]] = {name: {} for name in settings.contenders}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        np.save(Path(temporary) / "pixels.npy", pixels, allow_pickle=False)
        children = {
            name: stack.enter_context(_contender(name, settings.arch, Path(temporary))) for name in settings.contenders
        }
        kernels = {name: found for name, (_, found) in children.items()}
        for number in range(settings.rounds):
            for name, (connection, _) in children.items():
                for batch in BATCHES:
                    connection.send((batch, settings.seconds))
                    values = series[name].setdefault(f"images_per_second_{batch}", [])
                    values.append(round(batch / connection.recv(), 2))
            print(f"round {number + 1} of {settings.rounds}", flush=True)
    used = {"arch": settings.arch, "side": SIDE, "seconds": settings.seconds, "kernels": kernels}
    return write_result(settings.results, source.result(used, series, baseline=settings.contenders[0]))


def _photos() -> np.ndarray:
    """uint8 (64, 224, 224, 3): crops of real photographs."""
    folder = ROOT / ".benchmarks" / "photos-calibration"
    write_photos(folder, _CALIBRATION, 8)
    files = sorted((folder / "train").rglob("*.jpg"))
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files])


@contextmanager
def _contender(name: str, arch: str, folder: Path) -> Iterator[tuple[Connection, dict[str, int]]]:
    """A process with a contender: send (batch, seconds), receive the median seconds of a call."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, arch, folder), daemon=True)
    process.start()
    theirs.close()
    try:
        answer: Any = ours.recv()
        if isinstance(answer, str):
            raise TrainingError(f"{name}: {answer}")
        print(f"ready: {name}, kernels {answer}", flush=True)
        yield ours, answer
    except EOFError:
        raise TrainingError(f"{name}: its process ended; is there enough memory?") from None
    finally:
        ours.close()
        process.kill()
        process.join()


def _serve(connection: Connection, name: str, arch: str, folder: Path) -> None:
    pixels = np.load(folder / "pixels.npy")
    own = folder / name.replace(" ", "-")
    own.mkdir()
    try:
        call, kernels = make(name, arch, own, pixels)
        for batch in BATCHES:
            call(pixels[:batch])
        connection.send(kernels)
    except Exception as error:
        connection.send(repr(error)[:500])
        return
    while True:
        try:
            batch, seconds = connection.recv()
        except EOFError:
            return
        durations: list[float] = []
        until = time.monotonic() + seconds
        call(pixels[:batch])  # after a pause, caches are cold
        while not durations or time.monotonic() < until:
            started = time.perf_counter()
            call(pixels[:batch])
            durations.append(time.perf_counter() - started)
        connection.send(float(np.median(durations)))


def main() -> None:
    """Entry point."""
    settings = tyro.cli(Engines, prog="python -m benchmarks.optimize.engines", description=__doc__)
    path = measure(settings)
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
