"""What the loader's processes deliver, what keeps the device waiting, and which setting helps most.

First the loader alone, with several numbers of processes; then training with it, a setting at a time. The augmentation
is the default of ``marquee train`` where nothing else is said.
"""

import shutil
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from benchmarks.gpu.material import photographs
from benchmarks.gpu.step import Report, Site
from benchmarks.gpu.steps.gauges import Deadline, Pace, median, release
from benchmarks.gpu.steps.our_loop import OurLoop, create_network, passes_for, photo_config, read_photographs
from marquee.handlers.core.host import usable_cores
from marquee.training.core.device import resolve_device
from marquee.training.core.task import Network
from marquee.training.tasks.image_classification.config import ImageRunConfig

K = TypeVar("K", bound=Hashable)
Settings = dict[str, Mapping[str, Any]]
"""Part of the configuration -> field -> value."""
_BASE = "decoding every epoch"
"""What the settings are compared with."""
SETTINGS: dict[str, Settings] = {
    _BASE: {},
    "decoded images cached": {"loop": {"cache": "decoded"}},
    "crops and flips alone": {"augment": {"rotation": 0.0, "zoom": 0.0, "color": 0.0}},
    "images of half the side at first": {"loop": {"progressive_resizing": 0.5}},
    "JPEG decoded in full": {"image": {"decode": "full"}},
    "defaults of marquee train": {"loop": {"workers": -1, "cache": "auto"}},
}
"""Name -> what it changes; in training, all but the last with the number of processes that delivered most."""
_KEEPS_UP = 0.05
"""Share of the time up to which waiting does not count."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured."""

    network: str
    batch: int
    workers: tuple[int, ...]
    photographs: int
    waves: int
    """Batches of each process in a measurement."""
    rounds: int
    large: int
    """How many photographs of :attr:`large_size`, as telephones take them."""
    large_size: tuple[int, int]
    """Width and height in pixels."""
    large_batch: int


def sizes_for(site: Site) -> Sizes:
    """The sizes for a GPU; a tiny network and a few images on the CPU."""
    if site.full:
        return Sizes(
            network="resnet50",
            batch=128,
            workers=tuple(number for number in (0, 4, 8, 16) if number <= usable_cores()),
            photographs=1088,
            waves=1,
            rounds=2,
            large=64,
            large_size=(3000, 2000),
            large_batch=32,
        )
    return Sizes(
        network="test_resnet",
        batch=4,
        workers=(0, 1),
        photographs=40,
        waves=1,
        rounds=1,
        large=30,
        large_size=(800, 600),
        large_batch=2,
    )


def run(site: Site, report: Report) -> None:
    """See the module."""
    LoaderStep(site, report, sizes_for(site)).measure()


class LoaderStep:
    """The step.

    Args:
        site: where.
        report: takes the rows.
        sizes: what is measured.
    """

    def __init__(self, site: Site, report: Report, sizes: Sizes) -> None:
        self._site, self._report, self._sizes = site, report, sizes
        self._deadline, self._device = Deadline(site.seconds), resolve_device(site.device)

    def measure(self) -> None:
        """The loader alone, then in training; then large photographs."""
        memory = shutil.disk_usage("/dev/shm").total / 1e9
        self._report.row("/dev/shm", memory, "GB", note="through it processes hand over their batches")
        folder = photographs(self._site, self._sizes.photographs)
        manifest = read_photographs(photo_config(self._site), folder)
        network = create_network(self._config({}, 0, len(manifest.split("train"))), manifest)
        best = self._sizes.workers[-1]
        with self._report.guard("the loader alone"):
            best = self._alone(manifest, network)
        release(self._device)
        with self._report.guard("training"):
            self._in_training(manifest, network, best)
        release(self._device)
        with self._report.guard("large photographs"):
            self._large(folder, network, best)

    def _alone(self, manifest: Any, network: Network) -> int:
        """Tells what each number of processes delivers; returns the one that delivers most."""
        loops = {
            workers: self._loop(f"alone-{workers}", {}, workers, manifest, network) for workers in self._sizes.workers
        }
        turns = {workers: partial(loop.load, 1, self._steps(workers)) for workers, loop in loops.items()}
        speeds = {workers: pace.images_per_second for workers, pace in self._in_turns(turns).items()}
        for workers, speed in speeds.items():
            self._report.row(f"loader alone, {workers} processes", speed, "images/s", note="default augmentation")
        best = max(speeds, key=lambda workers: speeds[workers])
        self._report.row("processes that deliver most", best, note=f"of {usable_cores()} cores")
        return best

    def _in_training(self, manifest: Any, network: Network, workers: int) -> None:
        """Tells the pace of training with each setting, and which helps most."""
        loops = {}
        for name, changed in SETTINGS.items():
            with self._report.guard(f"training, {name}"):
                loops[name] = self._loop(name.replace(" ", "-"), changed, workers, manifest, network)
        for loop in loops.values():
            loop.train_on_noise(1, 1)  # kernels are chosen
        turns = {name: partial(loop.train, 1, self._steps(workers)) for name, loop in loops.items()}
        paces = self._in_turns(turns)
        for name, pace in paces.items():
            self._report.row(f"training, {name}", pace.images_per_second, "images/s", note=_waiting(pace))
        if _BASE in paces:
            self._tell_best(paces)
        for name in loops.keys() - paces.keys():
            self._report.skip(f"training, {name}", "no time left")

    def _tell_best(self, paces: dict[str, Pace]) -> None:
        base = paces[_BASE]
        best = max(paces, key=lambda name: paces[name].images_per_second)
        gain = paces[best].images_per_second / base.images_per_second
        note = f"{gain:.2f} times as fast as {_BASE}"
        if base.waiting <= _KEEPS_UP:
            note += f", with which the device hardly waits ({base.waiting:.0%} of the time)"
        self._report.row("setting that helps most", best, note=note)
        self._report.row("waiting for the loader", base.waiting * 100, "%", note=f"of the time of a step, {_BASE}")

    def _large(self, folder: Path, network: Network, workers: int) -> None:
        """Tells what decoding at a reduced size gains for large photographs."""
        if not self._deadline.allows(self._site.seconds * 0.15):
            self._report.skip("large photographs", "no time left")
            return
        large = enlarge(folder, self._site.work / "large", self._sizes.large, self._sizes.large_size)
        manifest = read_photographs(photo_config(self._site), large)
        loops = {
            decode: self._loop(
                f"large-{decode}", {"image": {"decode": decode}}, workers, manifest, network, self._sizes.large_batch
            )
            for decode in ("scaled", "full")
        }
        turns = {decode: partial(loop.load, 1, max(2, workers)) for decode, loop in loops.items()}
        width, height = self._sizes.large_size
        for decode, pace in self._in_turns(turns).items():
            name = f"loader alone, photographs of {width} x {height}, image.decode {decode}"
            self._report.row(name, pace.images_per_second, "images/s", note=f"{workers} processes")

    def _in_turns(self, turns: Mapping[K, Callable[[], Pace]]) -> dict[K, Pace]:
        """Each in turn, round by round, as long as there is time; the medians of those that were measured."""
        paces: dict[K, list[Pace]] = {}
        longest = 0.0
        for _ in range(self._sizes.rounds):
            for name, turn in turns.items():
                if self._deadline.allows(longest):
                    started = time.monotonic()
                    paces.setdefault(name, []).append(turn())
                    longest = max(longest, time.monotonic() - started)
        return {name: median(measured) for name, measured in paces.items()}

    def _loop(
        self, name: str, changed: Settings, workers: int, manifest: Any, network: Network, batch: int = 0
    ) -> OurLoop:
        config = self._config(changed, workers, len(manifest.split("train")), batch)
        image = replace(network.input, decode=config.image.decode)  # type: ignore[type-var]
        return OurLoop(config, manifest, replace(network, input=image), self._site.work / name)

    def _config(self, changed: Settings, workers: int, images: int, batch: int = 0) -> ImageRunConfig:
        batch = batch or self._sizes.batch
        passes = passes_for(self._steps(max(workers, 0)) + 1, batch, images)
        loop = {"batch_size": batch, "workers": workers, "passes": passes, "epochs": 100, **changed.get("loop", {})}
        model = {"arch": self._sizes.network, "dropout": 0.0}
        return photo_config(self._site, **{**changed, "model": model, "loop": loop})

    def _steps(self, workers: int) -> int:
        # Loader processes begin together and deliver in waves, a batch each.
        return max(2, self._sizes.waves * workers)


def _waiting(pace: Pace) -> str:
    return f"{pace.waiting:.0%} of the time waits for the loader"


def enlarge(folder: Path, target: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes ``count`` of the photographs in ``folder`` as large as telephones take them, with a camera's grain.

    Args:
        folder: class folders of JPEG files.
        target: has the same class folders afterwards.
        count: how many.
        size: width and height in pixels.
    """
    width, height = size
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.float32)

    def write(numbered: tuple[int, Path]) -> None:
        number, path = numbered
        with Image.open(path) as photograph:
            pixels = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
        noisy = (pixels + np.roll(grain, number, axis=1)).clip(0, 255).astype(np.uint8)
        place = target / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place, quality=85)

    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        # By the number in the name, so that every class has some.
        list(pool.map(write, enumerate(sorted(folder.rglob("*.jpg"), key=lambda path: path.name)[:count])))
    return target
