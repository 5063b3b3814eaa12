"""Time what a worker does with a request, and show what scaled decoding changes: no server, no network between.

Four parts, a result file each: decode (a file's bytes to 224 x 224 pixels, one thread), batch (eight files to answers,
with an int8 ResNet-18 in OpenVINO), sizes (the first call with a batch size and later ones), answers (of trained
networks, after scaled and after full decoding).

Example: python -m benchmarks.serving.handler --parts decode batch
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks import ROOT
from benchmarks.optimize.contenders import SIDE, load_files, make
from benchmarks.results import Series, origin, write_result
from benchmarks.serving.handler_material import digits_model, imagenet_model, large_digits, photographs
from marquee.commands.cli import run
from marquee.handlers.batch import BatchLoader
from marquee.handlers.host import this_host
from marquee.handlers.images import decode, load, open_image, prepare
from marquee.handlers.predictor import Predictor
from marquee.handlers.spec import ImageSpec, Precision
from marquee.training.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "serving" / "results" / "handler"
SIZES = ((500, 375), (1920, 1080), (4032, 3024))
BATCH = 8
CALLED = (1, 4, 8)
FULL = ImageSpec(channels=3, resize=256, crop=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
SCALED = replace(FULL, decode="scaled")
_FILES = 6
_IR = ("model.xml", "model.bin")
_ENGINES: dict[str, tuple[tuple[str, ...], str, Precision]] = {
    "OpenVINO int8": (_IR, "openvino", "int8"),
    "OpenVINO fp32": (_IR, "openvino", "fp32"),
    "exported fp32": (("model.pt2",), "exported", "fp32"),
}

Part = Literal["decode", "batch", "sizes", "answers"]


@dataclass(frozen=True, kw_only=True)
class Handler:
    """Arguments."""

    parts: tuple[Part, ...] = ("decode", "batch", "sizes", "answers")
    """What is measured."""
    rounds: int = 7
    """Every round times each contender once, in turn."""
    images: int = 48
    """Photographs whose answers are compared."""
    results: Path = RESULTS
    """Folder of the result files."""
    json: bool = False
    """Print the paths of the result files as one JSON list."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.images < 1:
            raise ValueError("rounds, images: expected at least 1")


def measure(settings: Handler) -> list[Path]:
    """Measures the parts; returns the result files."""
    parts: dict[Part, Callable[[Handler], tuple[dict[str, Any], Series, str]]] = {
        "decode": _decode,
        "batch": _batch,
        "sizes": _sizes,
        "answers": _answers,
    }
    written = []
    for name in settings.parts:
        source = origin(f"handler_{name}", "benchmarks.serving")
        used, series, baseline = parts[name](settings)
        written.append(write_result(settings.results, source.result(used, series, baseline)))
        print(f"wrote {written[-1]}", file=sys.stderr, flush=True)
    return written


def _decode(settings: Handler) -> tuple[dict[str, Any], Series, str]:
    """Bytes -> uint8 (224, 224, 3), on one thread."""
    contenders: dict[str, Callable[[bytes], np.ndarray]] = {
        "full": lambda data: load(data, FULL),
        "scaled": lambda data: load(data, SCALED),
        "scaled, margin 1": lambda data: _with_margin(data, SCALED, 1),
        "scaled, margin 3": lambda data: _with_margin(data, SCALED, 3),
        "full, reducing_gap 2": lambda data: _with_gap(decode(data, FULL)),
        "full, torch's resize": lambda data: _with_torch(decode(data, FULL)),
        "scaled, torch's resize": lambda data: _with_torch(decode(data, SCALED)),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"files": _FILES}, _in_turn(contenders, settings.rounds, _FILES, _each), "full"
    finally:
        torch.set_num_threads(before)


def _each(call: Callable[[bytes], Any], files: Sequence[bytes]) -> float:
    """Milliseconds a file."""
    started = time.perf_counter()
    for data in files:
        call(data)
    return (time.perf_counter() - started) / len(files) * 1e3


def _batch(settings: Handler) -> tuple[dict[str, Any], Series, str]:
    """Eight files -> logits."""
    threads = this_host().cores
    with tempfile.TemporaryDirectory() as folder:
        prepared = _pixels()
        engine, kernels = make("OpenVINO int8", "resnet18", Path(folder), prepared)
    loaders = {"serial": BatchLoader(SCALED, 1), "pool": BatchLoader(SCALED, threads)}
    halves = ThreadPoolExecutor(threads)

    def as_before(spec: ImageSpec) -> Callable[[Sequence[bytes]], Any]:
        return lambda files: engine(np.stack([load(data, spec) for data in files]))

    def batched(loader: BatchLoader) -> Callable[[Sequence[bytes]], Any]:
        return lambda files: engine(loader.load([open_image(data, SCALED) for data in files]).pixels)

    def overlapped(files: Sequence[bytes]) -> None:
        rows = np.empty((len(files), SIDE, SIDE, 3), np.uint8)

        def fill(i: int, data: bytes) -> None:
            rows[i] = load(data, SCALED)

        waiting: list[Future[None]] = [halves.submit(fill, i, data) for i, data in enumerate(files)]
        half = len(files) // 2
        for part in (slice(0, half), slice(half, None)):
            for one in waiting[part]:
                one.result()
            engine(rows[part])

    contenders: dict[str, Callable[[Sequence[bytes]], Any]] = {
        "one after the other, full": as_before(FULL),
        "one after the other, scaled": batched(loaders["serial"]),
        f"{threads} threads, scaled": batched(loaders["pool"]),
        f"{threads} threads, scaled, two halves overlapped": overlapped,
        "the engine alone": lambda files: engine(prepared[: len(files)]),
    }
    used = {"batch": BATCH, "arch": "resnet18", "kernels": kernels}
    return used, _in_turn(contenders, settings.rounds, BATCH, _whole), "one after the other, full"


def _whole(call: Callable[[Sequence[bytes]], Any], files: Sequence[bytes]) -> float:
    """Milliseconds of a batch."""
    started = time.perf_counter()
    call(files)
    return (time.perf_counter() - started) * 1e3


def _in_turn(
    contenders: dict[str, Callable[..., Any]],
    rounds: int,
    count: int,
    timed: Callable[[Callable[..., Any], Sequence[bytes]], float],
) -> Series:
    """Every contender with files of every size, once a round; a value is the median of three."""
    series: Series = {name: {} for name in contenders}
    for size in SIZES:
        files = photographs(size, count)
        for call in contenders.values():
            timed(call, files)  # the first call sets things up
        for _ in range(rounds):
            for name, call in contenders.items():
                value = float(np.median([timed(call, files) for _ in range(3)]))
                series[name].setdefault(f"ms_{size[0]}x{size[1]}", []).append(round(value, 3))
        print(f"{size[0]} x {size[1]}: done", file=sys.stderr, flush=True)
    return series


def _sizes(settings: Handler) -> tuple[dict[str, Any], Series, str]:
    """Each round loads every engine in a fresh process: PyTorch keeps what it has set up for as long as it runs."""
    series: Series = {name: {} for name in _ENGINES}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name.replace(" ", "-") for name in _ENGINES}
        for name, folder in folders.items():
            # Here and not in the processes that are timed: OpenVINO's converter leaves processes of its own behind,
            # which take the cores for seconds.
            folder.mkdir()
            make(name, "resnet18", folder, _pixels())
        for number in range(settings.rounds):
            for name, folder in folders.items():
                for metric, value in _in_fresh_process(name, folder).items():
                    series[name].setdefault(metric, []).append(value)
            print(f"round {number + 1} of {settings.rounds}", file=sys.stderr, flush=True)
    return {"arch": "resnet18"}, series, ""


def _in_fresh_process(name: str, folder: Path) -> dict[str, float]:
    """:func:`_first_and_later` in a process of its own.

    Not one of multiprocessing's: where such a process imports scikit-learn before OpenVINO, as this module does,
    OpenVINO was seen to use one core only.
    """
    code = "import json, sys; from pathlib import Path; from benchmarks.serving.handler import _first_and_later as f; "
    code += "print(json.dumps(f(sys.argv[1], Path(sys.argv[2]))))"
    command = [sys.executable, "-c", code, name, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingError(f"{name}: {(done.stderr.strip().splitlines() or ['its process ended'])[-1]}")
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def _first_and_later(name: str, folder: Path) -> dict[str, float]:
    """Milliseconds of the first call with each batch size, and the median of ten later ones between other sizes."""
    pixels = np.zeros((max(CALLED), SIDE, SIDE, 3), np.uint8)
    found: dict[str, list[float]] = {}
    files, kind, precision = _ENGINES[name]
    engine, _ = load_files([folder / file for file in files], folder, kind, precision)
    engine(pixels[:2])  # what only the very first call pays is not the size's
    for turn in range(11):
        for size in CALLED:
            started = time.perf_counter()
            engine(pixels[:size])
            metric = f"{'later' if turn else 'first'}_ms_{size}"
            found.setdefault(metric, []).append((time.perf_counter() - started) * 1e3)
    return {metric: round(float(np.median(values)), 2) for metric, values in found.items()}


def _answers(settings: Handler) -> tuple[dict[str, Any], Series, str]:
    """What networks answer after scaled decoding with different margins, beside their answers after full decoding."""
    series: Series = {}
    photos, nobody = photographs((4032, 3024), settings.images), np.zeros(0)
    digits, labels = large_digits(400)
    for title, predictor, files, truth in (
        ("ImageNet", imagenet_model(), photos, nobody),
        ("digits", digits_model(), digits, labels),
    ):
        scaled = replace(predictor.spec.image, decode="scaled")
        expected = _probabilities(predictor, [load(data, replace(scaled, decode="full")) for data in files])
        series[f"{title}, full"] = _beside(expected, expected, truth)
        for margin in (1, 2, 4):
            found = _probabilities(predictor, [_with_margin(data, scaled, margin) for data in files])
            series[f"{title}, scaled, margin {margin}"] = _beside(found, expected, truth)
    return {"photographs": len(photos), "digits": len(digits), "margin": "scaled means 2"}, series, ""


def _probabilities(predictor: Predictor, arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([predictor.probabilities(np.stack(arrays[i : i + 32])) for i in range(0, len(arrays), 32)])


def _beside(found: np.ndarray, expected: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """Of probabilities (N, labels): how far they are from the expected ones, and how often they are right."""
    apart = np.abs(found - expected).max(axis=1)
    facts = {
        "agreement": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "mean_change": float(apart.mean()),
        "largest_change": float(apart.max()),
    }
    if len(truth):
        facts["test_accuracy"] = float((found.argmax(axis=1) == truth).mean())
    return {name: [value] for name, value in facts.items()}


def _with_margin(data: bytes, spec: ImageSpec, margin: int) -> np.ndarray:
    """Scaled decoding as if ``SCALED_MARGIN``, which is 2, were ``margin``."""
    return prepare(decode(data, spec, -(-margin * spec.resize // 2)), spec)


def _box(image: Image.Image) -> tuple[float, float, float, float]:
    side = min(image.size) * FULL.crop / FULL.resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def _with_gap(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=_box(image), reducing_gap=2.0))


def _with_torch(image: Image.Image) -> np.ndarray:
    """It has no part of a pixel in its box, so its pixels are others than those that are served."""
    left, top, right, bottom = map(round, _box(image))
    pixels = torch.from_numpy(np.array(image.crop((left, top, right, bottom)))).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    result: np.ndarray = resized[0].permute(1, 2, 0).contiguous().numpy()
    return result


def _pixels() -> np.ndarray:
    """uint8 (64, 224, 224, 3) for the quantizer."""
    return np.stack([load(data, FULL) for data in photographs(SIZES[0], 64)])


def main() -> int:
    """Entry point."""
    settings = tyro.cli(Handler, prog="python -m benchmarks.serving.handler", description=__doc__)
    written = measure(settings)
    print(json.dumps([str(path) for path in written]) if settings.json else "next: python -m benchmarks.render")
    return 0


if __name__ == "__main__":
    run(main)
