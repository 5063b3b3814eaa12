"""What the steps measure with: the time that is left, the pace of batches, memory, operations, a matrix product."""

import gc
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_RESERVE = 0.1
"""Share of a step's time that is kept for what no estimate has foreseen."""


class Deadline:
    """The time that a step has left.

    Args:
        seconds: the step's limit, from the start of its process.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds * (1 - _RESERVE) - process_seconds()

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether there is time for something that takes so long."""
        return self.left > seconds


def process_seconds() -> float:
    """The age of this process, in which it has imported its libraries; 0 where the system does not tell."""
    try:
        started = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return max(0.0, age)


@dataclass(frozen=True)
class Pace:
    """How fast batches were used."""

    images_per_second: float
    waiting: float
    """Share of the time, 0 to 1, in which the next batch was waited for."""
    window: tuple[float, float] = field(default=(0.0, 0.0), compare=False)
    """Begin and end of the measurement, of ``time.perf_counter()``."""


class Watched:
    """Passes a loader's batches on, and measures the pace at which they are used.

    The first batches are left out: with them come the start of the loader's processes and the choice of kernels.

    Args:
        batches: the loader.
        skip: the number of batches before the measurement, at least 1.
        count: the number of batches to measure; a loader that has more is not read to its end.
        synchronize: waits until the device has done all that it was asked for.
    """

    def __init__(self, batches: Iterable[Any], skip: int, count: int, synchronize: Callable[[], None]) -> None:
        self._batches, self._skip, self._count, self._synchronize = batches, skip, count, synchronize
        self._images, self._seconds, self._waited, self._began = 0, 0.0, 0.0, 0.0

    def __iter__(self) -> Iterator[Any]:
        source = iter(self._batches)
        for number in range(self._skip + self._count):
            if number == self._skip:
                self._synchronize()
                self._began = time.perf_counter()
            asked = time.perf_counter()
            batch = next(source)
            if number >= self._skip:
                self._waited += time.perf_counter() - asked
                self._images += len(batch[0])
            yield batch
        self._synchronize()
        self._seconds = time.perf_counter() - self._began
        for _ in source:  # there are none, but only at its end does a loader give up what it holds
            break

    @property
    def pace(self) -> Pace:
        """Of the batches that were measured.

        Raises:
            RuntimeError: the loop ended before the last of them.
        """
        if not self._seconds:
            raise RuntimeError("the loop ended before all batches were measured")
        window = self._began, self._began + self._seconds
        return Pace(self._images / self._seconds, self._waited / self._seconds, window)


def median(paces: Iterable[Pace]) -> Pace:
    """The medians of several repetitions."""
    speeds, waits = zip(*((pace.images_per_second, pace.waiting) for pace in paces), strict=True)
    return Pace(statistics.median(speeds), statistics.median(waits))


def workers_that_fit(workers: int, batch: int, size: int) -> int:
    """How many of these loader processes find room in ``/dev/shm``, which holds their batches until they are read.

    Args:
        workers: as many as there are to be.
        batch: images of a batch; each process makes two in advance.
        size: side of the images in pixels, of three bytes.
    """
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:  # a system that has none keeps them elsewhere
        return workers
    return min(workers, free // (2 * batch * size**2 * 3))


def fewer_workers(wanted: int, workers: int) -> str:
    """For the note of a row: that ``/dev/shm`` has room for fewer loader processes; empty where it is large enough."""
    return "" if workers == wanted else f"; {wanted} of them would need a larger /dev/shm"


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until ``device`` is done; on a CPU nothing has to be waited for."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def release(device: torch.device) -> None:
    """Gives memory back that nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class PeakMemory:
    """The most memory that tensors had at once since it was made: on the GPU, or of the whole process on a CPU.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
        self._device = device

    @property
    def gigabytes(self) -> float:
        """In 1e9 bytes."""
        if self._is_cuda:
            return torch.cuda.max_memory_allocated(self._device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def operations_of_an_image(create: Callable[[], nn.Module], size: int) -> float:
    """Floating-point operations of one image in training, forwards and backwards; a multiplication and its sum are two.

    Args:
        create: creates the network, which takes float (N, 3, size, size).
        size: side of the images in pixels.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        create()(torch.empty(2, 3, size, size)).sum().backward()
    return float(counter.get_total_flops()) / 2


def matrix_product_speed(device: torch.device, side: int, calls: int = 20, rounds: int = 5) -> float:
    """Operations a second of a product of two bf16 matrices of ``side`` x ``side``: what the device reaches at best."""
    synchronize, speeds = synchronizer(device), []
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    for _ in range(rounds + 1):
        synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            torch.mm(left, right)
        synchronize()
        speeds.append(calls * 2 * side**3 / (time.perf_counter() - started))
    return statistics.median(speeds[1:])  # the first one warms up
