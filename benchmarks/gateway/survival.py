"""What the gateway loses while its workers, its host or itself are ended: counts of sent, right, refused, wrong, lost.

A small model of digits, ``marquee serve run``, and callers over HTTP, 4 and then 16, that compare each answer with
evaluation's. Nothing may be wrong, and nothing may be lost.

Example: python -m benchmarks.gateway.survival
"""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import ROOT, WORK, main, tell
from benchmarks.gateway.load import Counts, Load, read_questions
from benchmarks.gateway.place import MODEL, Place, signal_to
from benchmarks.results import Series, add, origin, write_result
from marquee.serving.record import find

TRAINING = {
    "image.size": "32",
    "model.arch": "test_resnet",
    "loop.epochs": "4",
    "loop.batch-size": "32",
    "loop.workers": "0",
    "optimizer.lr": "4e-3",
    "augment.crop-scale": "0.9",
    **{f"augment.{name}": "0" for name in ("horizontal-flip", "rotation", "zoom", "color")},
}
"""A run of some seconds."""
STEADY_SECONDS = 2.0
"""Of undisturbed load, before and after."""

Disturb = Callable[[Place, float], Awaitable[None]]


@dataclass
class Survival:
    """Settings."""

    out: Path = ROOT / "benchmarks" / "gateway" / "results"
    """Folder of the result file."""
    work: Path = WORK / "gateway"
    """Folder of the model and of the server's files; the model is kept."""
    seconds: float = 60.0
    """Of those disturbances that go on for some time."""
    callers: tuple[int, ...] = (4, 16)
    """How many there are at a time."""
    only: tuple[str, ...] = ()
    """Parts of the names of the disturbances; none: all."""


async def kill_one(place: Place, seconds: float) -> None:
    """Signal 9 to a worker, every 5 s, whenever one is READY."""
    await _kill(place, seconds, lambda pids: pids[:1])


async def kill_all(place: Place, seconds: float) -> None:
    """Signal 9 to all workers that are READY at once, every 15 s."""
    await _kill(place, seconds, lambda pids: pids, period=15)


async def kill_host(place: Place, seconds: float) -> None:
    """Signal 9 to Java, once; the supervisor brings it back."""
    before = place.server().pid
    signal_to(before, signal.SIGKILL)

    async def is_back() -> bool:
        now = find(place.state)
        return now is not None and now.pid != before and await place.is_ready()

    await place.until(is_back)


async def stop_one(place: Place, seconds: float) -> None:
    """SIGSTOP of one of the workers."""
    pids = await place.pids()
    signal_to(pids[0], signal.SIGSTOP)

    async def is_replaced() -> bool:
        now = await place.pids()
        return len(now) == len(pids) and pids[0] not in now and await place.is_ready()

    await place.until(is_replaced)


async def scale(place: Place, seconds: float) -> None:
    """1, 2, 1 workers."""
    await place.scale(2)
    await asyncio.sleep(STEADY_SECONDS)
    await place.scale(1)


async def swap(place: Place, seconds: float) -> None:
    """2.0 is registered and made the default, 1.0 is removed; and back."""
    for new, old in (("2.0", "1.0"), ("1.0", "2.0")):
        await place.manage("POST", "/models", url=f"{MODEL}-{new}.mar", initial_workers=1, synchronous="true")
        await place.until(partial(_is_proven, place, new))
        await place.manage("PUT", f"/models/{MODEL}/{new}/set-default")
        await place.manage("DELETE", f"/models/{MODEL}/{old}")


async def restart(place: Place, seconds: float) -> None:
    """SIGTERM to the gateway, exit code 0, and a start."""
    code = await place.end()
    if code != 0:
        raise RuntimeError(f"the gateway ended with {code}")
    await place.start()


@dataclass(frozen=True)
class Part:
    """A disturbance."""

    name: str
    disturb: Disturb
    workers: int


PARTS = (
    Part("kill -9 of a worker, 1 worker", kill_one, 1),
    Part("kill -9 of a worker, 2 workers", kill_one, 2),
    Part("kill -9 of all workers", kill_all, 2),
    Part("kill -9 of Java", kill_host, 2),
    Part("SIGSTOP of a worker, 1 worker", stop_one, 1),
    Part("SIGSTOP of a worker, 2 workers", stop_one, 2),
    Part("scale 1-2-1", scale, 1),
    Part("another version", swap, 1),
    Part("SIGTERM and a restart", restart, 1),
)


async def _is_proven(place: Place, version: str) -> bool:
    async with place.session.get(f"{place.url}/v2/models/{MODEL}/versions/{version}/ready") as answer:
        return answer.status == 200


async def _kill(place: Place, seconds: float, choose: Callable[[list[int]], list[int]], period: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for pid in choose(await place.pids()):  # none where all of them are still starting
            signal_to(pid, signal.SIGKILL)
        await asyncio.sleep(period * random.uniform(0.8, 1.2))
    await place.until(place.is_ready)


async def take(part: Part, place: Place, settings: Survival, callers: int) -> Counts:
    """One disturbance under one load."""
    await place.scale(part.workers)
    load = Load(place.ask, read_questions(settings.work / "run"), callers)
    task = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(STEADY_SECONDS)
        await part.disturb(place, settings.seconds)
        await asyncio.sleep(STEADY_SECONDS)
    finally:
        load.stop()
    return await task


def prepare(work: Path) -> None:
    """Digits, a run, and the store with two versions, unless they are there."""
    from marquee.training.tasks.image_classification.data.digits import write_digits

    if (work / "store" / f"{MODEL}-2.0.mar").is_file():
        return
    shutil.rmtree(work, ignore_errors=True)
    write_digits(work / "digits")
    trained = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
    commands = [["train", "--data", str(work / "digits"), "--out", str(work / "run"), *trained]]
    for version in ("1.0", "2.0"):
        options = ["--name", MODEL, "--version", version, "--store", str(work / "store")]
        commands.append(["package", str(work / "run"), *options])
    for command in commands:
        subprocess.run([sys.executable, "-m", "marquee", *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


async def measure_all(settings: Survival) -> Series:
    """Every disturbance under every load."""
    series: Series = {}
    place = Place(store=settings.work / "store", state=settings.work / "state")
    await place.start()
    try:
        for part in PARTS:
            if settings.only and not any(word in part.name for word in settings.only):
                continue
            for callers in settings.callers:
                counts = await take(part, place, settings, callers)
                tell(f"{part.name}, {callers} callers: {counts}")
                add(series, f"{part.name}, {callers} clients", values_of(counts))
    finally:
        await place.stop()
    return series


def values_of(counts: Counts) -> dict[str, float]:
    """For the result file."""
    return {
        "sent": counts.sent,
        "right": counts.right,
        "refused": counts.refused,
        "wrong": counts.wrong,
        "lost": counts.lost,
        "slowest_answer": max(counts.latencies, default=0.0),
        "slowest_refusal": counts.slowest_refusal,
    }


def measure(settings: Survival) -> Path:
    """Runs the benchmark, and returns the path of its result file."""
    source = origin("survival")
    prepare(settings.work)
    series = asyncio.run(measure_all(settings))
    return write_result(settings.out, source, {"seconds": settings.seconds}, series)


if __name__ == "__main__":
    main(measure, Survival, __doc__)
