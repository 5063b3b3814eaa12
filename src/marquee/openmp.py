"""Limits OpenMP's threads, before any library with OpenMP is loaded: how long they spin, and how many there are.

PyTorch on Linux comes with GNU's OpenMP. Its threads wait for each other by spinning, by default for milliseconds. When
another process needs one of the cores, such as a data loader, a second training or a browser, threads that have work
wait for threads that spin, and everything becomes several times slower (docs/training.md has the figures).
"""

import math
import os

from marquee.handlers.core.cgroup import cpu_quota

SPINS = "1000"
"""Rounds of spinning, some microseconds, before a thread sleeps."""


def limit_spinning() -> None:
    """Sets ``GOMP_SPINCOUNT`` for this process and those that it starts, unless the environment already sets it.

    It takes effect when OpenMP is loaded: with the import of torch, for instance. In a notebook that has already
    imported torch, nothing changes.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def limit_threads() -> None:
    """Sets ``OMP_NUM_THREADS`` to the CPU quota of the container, unless the environment already sets it.

    OpenMP counts the cores of the host. With more threads than the quota has time for, all of them stand still for most
    of each tenth of a second.
    """
    quota = cpu_quota()
    if quota is not None and math.ceil(quota) < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(quota)))
