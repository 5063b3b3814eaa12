"""How fast the training loop is: beside a plain loop of timm's parts, and on pixels that lie on the device already.

The contenders of a network and a batch take turns, round by round. What they reach on photographs is what the loader
lets them; on noise, a batch that lies on the device, it is what the steps alone would allow.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.gpu.machine import Sampler
from benchmarks.gpu.material import photographs
from benchmarks.gpu.step import Report, Site
from benchmarks.gpu.steps.gauges import (
    Deadline,
    Pace,
    PeakMemory,
    fewer_workers,
    matrix_product_speed,
    median,
    operations_of_an_image,
    release,
    workers_that_fit,
)
from benchmarks.gpu.steps.our_loop import OurLoop, create_network, passes_for, photo_config, read_photographs
from benchmarks.gpu.steps.plain_loop import PlainLoop
from marquee.handlers.core.host import usable_cores
from marquee.training.core.device import resolve_device
from marquee.training.core.task import Network
from marquee.training.tasks.image_classification.config import ImageRunConfig

_AUGMENT = {"crop_scale": 0.08, "horizontal_flip": 0.5, "rotation": 0.0, "zoom": 0.0, "color": 0.0}
"""What both loops do: random crops and flips."""
_WARM_UP = 3
"""Steps in which kernels are chosen and memory is taken."""
NOISE, PHOTOGRAPHS = "noise", "photographs"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured."""

    networks: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]
    """On what, and in which batches; the most important first."""
    photographs: int
    workers: int
    """Loader processes of each loop."""
    images: int
    """At least so many in a measurement."""
    rounds: int
    """On noise; on photographs there are two."""
    side: int
    """Of the matrices whose product is timed."""


def sizes_for(site: Site) -> Sizes:
    """The sizes for a GPU; a tiny network and a few images on the CPU."""
    if not site.full:
        both = ((NOISE, 8), (PHOTOGRAPHS, 8))
        return Sizes(networks=("cnn4_w8",), parts=both, photographs=40, workers=0, images=8, rounds=2, side=256)
    first = ((NOISE, 256), (PHOTOGRAPHS, 256), (NOISE, 64), (NOISE, 512), (PHOTOGRAPHS, 64), (PHOTOGRAPHS, 512))
    return Sizes(
        networks=("resnet50", "convnext_tiny"),
        parts=(*first, (NOISE, 128), (PHOTOGRAPHS, 128)),
        photographs=1088,
        workers=max(1, min(16, usable_cores() - 1)),
        images=1024,
        rounds=3,
        side=8192,
    )


def run(site: Site, report: Report) -> None:
    """See the module."""
    Throughput(site, report, sizes_for(site)).measure()


class Throughput:
    """The step.

    Args:
        site: where.
        report: takes the rows.
        sizes: what is measured.
    """

    def __init__(self, site: Site, report: Report, sizes: Sizes) -> None:
        self._site, self._report, self._sizes = site, report, sizes
        self._deadline, self._device = Deadline(site.seconds), resolve_device(site.device)
        self._peak, self._sampler = 0.0, Sampler()
        self._seconds = {NOISE: 0.0, PHOTOGRAPHS: 0.0}  # of the longest case so far
        self._noise: dict[tuple[str, int], float] = {}  # images a second of the project's loop
        self._operations: dict[str, float] = {}
        self._networks: dict[str, Network] = {}

    def measure(self) -> None:
        """Every part with every network, as long as there is time."""
        sizes, report = self._sizes, self._report
        with report.guard("bf16 matrix product"):
            self._peak = matrix_product_speed(self._device, sizes.side)
            report.row("bf16 matrix product", self._peak / 1e12, "TFLOP/s", note=f"{sizes.side} x {sizes.side}")
        folder = photographs(self._site, sizes.photographs).absolute()
        manifest = read_photographs(photo_config(self._site), folder)
        with self._sampler:  # once: nvidia-smi takes its time to start
            for part, batch in sizes.parts:
                for network in sizes.networks:
                    self._attempt(part, network, batch, manifest, folder)

    def _attempt(self, part: str, network: str, batch: int, manifest: Any, folder: Path) -> None:
        title = f"{network}, batch {batch}, {part}"
        if not self._deadline.allows(self._seconds[part]):
            self._report.skip(title, "no time left")
            return
        started = time.monotonic()
        with self._report.guard(title), self._within_memory(title):
            config = self._config(network, batch, len(manifest.split("train")))
            chosen = self._take(config, manifest)
            ours = OurLoop(config, manifest, chosen, self._site.work / title.replace(" ", "-"))
            if part == NOISE:
                self._on_noise(title, ours, config, manifest, folder)
            else:
                self._on_photographs(title, ours, config, manifest, folder)
        release(self._device)
        self._seconds[part] = max(self._seconds[part], time.monotonic() - started)

    def _take(self, config: ImageRunConfig, manifest: Any) -> Network:
        """The network of a run; the others leave the device, so that its peak of memory is not theirs."""
        arch = config.model.arch
        for name, network in self._networks.items():
            if name != arch:
                network.model.zero_grad()
                network.model.cpu()
        release(self._device)
        if arch not in self._networks:
            self._networks[arch] = create_network(config, manifest)
        return self._networks[arch]

    @contextmanager
    def _within_memory(self, title: str) -> Iterator[None]:
        """A batch that does not fit says so in its row: no fault, but the end of what fits."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._report.row(title, "out of memory", note=str(error).splitlines()[0])

    def _config(self, network: str, batch: int, images: int) -> ImageRunConfig:
        passes = passes_for(max(_WARM_UP, self._steps(batch)) + 1, batch, images)
        workers = workers_that_fit(self._sizes.workers, batch, photo_config(self._site).image.size)
        loop = {"batch_size": batch, "workers": workers, "passes": passes, "epochs": 100}
        return photo_config(self._site, model={"arch": network, "dropout": 0.0}, augment=_AUGMENT, loop=loop)

    def _steps(self, batch: int) -> int:
        # Loader processes begin together and deliver in waves, a batch each: one wave, or several.
        return max(self._sizes.images // batch, self._sizes.workers, 2)

    def _on_noise(self, title: str, ours: OurLoop, config: ImageRunConfig, manifest: Any, folder: Path) -> None:
        batch, report = config.loop.batch_size, self._report
        count = max(2, self._sizes.images // batch)
        memory = PeakMemory(self._device)
        ours.train_on_noise(_WARM_UP, 1)
        report.row(f"{title}: peak memory", memory.gigabytes, "GB", note="the project's loop")
        plain = PlainLoop(config, folder, [record.path for record in manifest.split("train")], self._device)
        plain.train_on_noise(_WARM_UP, 1)
        paces: list[tuple[Pace, Pace]] = []
        for _ in range(self._sizes.rounds):
            paces.append((ours.train_on_noise(1, count), plain.train_on_noise(1, count)))
        own, other = (median(column).images_per_second for column in zip(*paces, strict=True))
        self._noise[config.model.arch, batch] = own
        report.row(f"{title}: ours", own, "images/s")
        report.row(f"{title}: plain timm loop", other, "images/s", note=f"ours is {own / other:.2f} times as fast")
        self._tell_operations(title, own, config)

    def _tell_operations(self, title: str, images_per_second: float, config: ImageRunConfig) -> None:
        arch, size = config.model.arch, config.image.size
        if arch not in self._operations:
            self._operations[arch] = operations_of_an_image(lambda: timm.create_model(arch, num_classes=10), size)
        speed = self._operations[arch] * images_per_second
        share = f"{speed / self._peak:.0%} of the matrix product's" if self._peak else ""
        self._report.row(f"{title}: operations", speed / 1e12, "TFLOP/s", note=share)

    def _on_photographs(self, title: str, ours: OurLoop, config: ImageRunConfig, manifest: Any, folder: Path) -> None:
        report, count = self._report, self._steps(config.loop.batch_size)
        plain = PlainLoop(config, folder, [record.path for record in manifest.split("train")], self._device)
        own, other = [], []
        for _ in range(2):
            own.append(ours.train(1, count))
            other.append(plain.train(1, count))
        busy = self._sampler.utilisation(one.window for one in own)
        pace, speed = median(own), median(other).images_per_second
        noise = self._noise.get((config.model.arch, config.loop.batch_size))
        note = f"{config.loop.workers} loader processes" + fewer_workers(self._sizes.workers, config.loop.workers)
        note += f"; {pace.images_per_second / noise:.0%} of what noise allows" if noise else ""
        report.row(f"{title}: ours", pace.images_per_second, "images/s", note=note)
        report.row(f"{title}: waiting for the loader", pace.waiting * 100, "%", note="of the time of our steps")
        report.row(
            f"{title}: plain timm loop",
            speed,
            "images/s",
            note=f"ours is {pace.images_per_second / speed:.2f} times as fast",
        )
        if busy is not None:
            report.row(f"{title}: GPU utilisation", busy, "%", note="of nvidia-smi, in the measured steps of our loop")
        else:
            report.skip(f"{title}: GPU utilisation", "nvidia-smi gave no samples")
