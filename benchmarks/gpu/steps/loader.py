"""What the loader's processes deliver, what keeps the device waiting, and which setting helps most.

First the loader alone, with several numbers of processes; then training with it, a setting at a time. One loop exists
at a time: its processes have the cores to themselves. The augmentation is the default of ``marquee train`` where
nothing else is said.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.material import enlarge, photographs
from benchmarks.gpu.step import Report, Site
from benchmarks.gpu.steps.gauges import Deadline, Pace, fewer_workers, median, release, workers_that_fit
from benchmarks.gpu.steps.our_loop import OurLoop, create_network, passes_for, photo_config, read_photographs
from marquee.handlers.core.host import usable_cores
from marquee.training.core.device import resolve_device
from marquee.training.core.task import Network
from marquee.training.tasks.image_classification.config import ImageRunConfig

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
        network="cnn4_w8",
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
        self._longest = 0.0  # seconds of a loop so far

    def measure(self) -> None:
        """The loader alone, then in training; then large photographs."""
        folder = photographs(self._site, self._sizes.photographs)
        manifest = read_photographs(photo_config(self._site), folder)
        network = create_network(self._config({}, 0, len(manifest.split("train"))), manifest)
        best = self._fitting(self._sizes.workers[-1])
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
        speeds: dict[int, float] = {}
        for wanted in self._sizes.workers:
            workers, name = self._fitting(wanted), f"loader alone, {wanted} processes"
            if workers < wanted:
                self._report.skip(name, f"/dev/shm has room for the batches of {workers}")
                continue
            loop = partial(self._loop, f"alone-{workers}", {}, workers, manifest, network)
            if pace := self._measure(name, loop, OurLoop.load, workers):
                speeds[workers] = pace.images_per_second
                self._report.row(name, pace.images_per_second, "images/s", note="default augmentation")
        if not speeds:
            return self._fitting(self._sizes.workers[-1])
        best = max(speeds, key=lambda workers: speeds[workers])
        self._report.row("processes that deliver most", best, note=f"of {usable_cores()} cores")
        return best

    def _in_training(self, manifest: Any, network: Network, workers: int) -> None:
        """Tells the pace of training with each setting, and which helps most."""
        paces: dict[str, Pace] = {}
        for name, changed in SETTINGS.items():
            title = f"training, {name}"
            loop = partial(self._loop, name.replace(" ", "-"), changed, workers, manifest, network)
            if pace := self._measure(title, loop, OurLoop.train, workers):
                paces[name] = pace
                note = f"{pace.waiting:.0%} of the time waits for the loader" + self._fewer
                self._report.row(title, pace.images_per_second, "images/s", note=note)
        if _BASE in paces:
            self._tell_best(paces)

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
        width, height = self._sizes.large_size
        for decode in ("scaled", "full"):
            changed: Settings = {"image": {"decode": decode}}
            loop = partial(self._loop, f"large-{decode}", changed, workers, manifest, network, self._sizes.large_batch)
            title = f"loader alone, photographs of {width} x {height}, image.decode {decode}"
            if pace := self._measure(title, loop, OurLoop.load, workers):
                self._report.row(title, pace.images_per_second, "images/s", note=f"{workers} processes" + self._fewer)

    def _measure(
        self, title: str, create: Callable[[], OurLoop], use: Callable[[OurLoop, int, int], Pace], workers: int
    ) -> Pace | None:
        """The median pace of a loop that lives no longer; None, and a row that says why, where there is none."""
        if not self._deadline.allows(self._longest):
            self._report.skip(title, "no time left")
            return None
        pace, started = None, time.monotonic()
        with self._report.guard(title):
            pace = self._pace(create(), use, workers)
        release(self._device)  # the loop's processes end with it
        self._longest = max(self._longest, time.monotonic() - started)
        return pace

    def _pace(self, loop: OurLoop, use: Callable[[OurLoop, int, int], Pace], workers: int) -> Pace:
        if use is OurLoop.train:
            loop.train_on_noise(1, 1)  # kernels are chosen
        return median([use(loop, self._skipped(workers), self._steps(workers)) for _ in range(self._sizes.rounds)])

    def _fitting(self, workers: int) -> int:
        return workers_that_fit(workers, self._sizes.batch, photo_config(self._site).image.size)

    @property
    def _fewer(self) -> str:
        most = self._sizes.workers[-1]
        return fewer_workers(most, self._fitting(most))

    def _loop(
        self, name: str, changed: Settings, workers: int, manifest: Any, network: Network, batch: int = 0
    ) -> OurLoop:
        config = self._config(changed, workers, len(manifest.split("train")), batch)
        image = replace(network.input, decode=config.image.decode)  # type: ignore[type-var]
        return OurLoop(config, manifest, replace(network, input=image), self._site.work / name)

    def _config(self, changed: Settings, workers: int, images: int, batch: int = 0) -> ImageRunConfig:
        batch = batch or self._sizes.batch
        passes = passes_for(self._steps(workers) + self._skipped(workers), batch, images)
        loop = {"batch_size": batch, "workers": workers, "passes": passes, "epochs": 100, **changed.get("loop", {})}
        model = {"arch": self._sizes.network, "dropout": 0.0}
        return photo_config(self._site, **{**changed, "model": model, "loop": loop})

    def _steps(self, workers: int) -> int:
        # Loader processes begin together and deliver in waves, a batch each.
        return max(2, self._sizes.waves * workers)

    def _skipped(self, workers: int) -> int:
        # The first wave comes with the start of the processes.
        return max(1, workers)
