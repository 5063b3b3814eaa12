"""Takes the memory of a GPU away from other processes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

_SIZES = tuple(1 << power for power in (30, 26, 21))
"""Bytes of the blocks, from large to small; the allocator asks CUDA for no less than the smallest."""


@contextmanager
def all_memory_taken(device: torch.device) -> Iterator[int]:
    """Yields the bytes that are still free on the device; all of the blocks are given back afterwards."""
    taken: list[torch.Tensor] = []
    for size in _SIZES:
        with suppress(torch.OutOfMemoryError):
            while True:
                taken.append(torch.empty(size, dtype=torch.uint8, device=device))
    try:
        yield torch.cuda.mem_get_info(device)[0]
    finally:
        taken.clear()
        torch.cuda.empty_cache()
