"""Limits how long OpenMP's threads spin before they sleep, before any library with OpenMP is loaded.

PyTorch on Linux comes with GNU's OpenMP. Its threads wait for each other by spinning, by default for milliseconds. When
another process needs one of the cores, such as a data loader, a second training or a browser, threads that have work
wait for threads that spin, and everything becomes several times slower (docs/training.md has the figures).
"""

import os

SPINS = "1000"
"""Rounds of spinning, some microseconds, before a thread sleeps."""


def limit_spinning() -> None:
    """Sets ``GOMP_SPINCOUNT`` for this process and those that it starts, unless the environment already sets it.

    It takes effect when OpenMP is loaded: with the import of torch, for instance. In a notebook that has already
    imported torch, nothing changes.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
