"""How many threads this process gives to its engine: for a batch, and for an image that comes alone."""

import torch

_alone: int | None = None


def set_threads(threads: int, alone: int | None = None) -> None:
    """Sets both, for engines that are loaded from now on.

    Args:
        threads: for a batch; torch's own number, which every engine asks for.
        alone: for a batch of one image; None: as many.
    """
    global _alone
    torch.set_num_threads(threads)
    _alone = alone


def threads_alone() -> int:
    """Threads for a batch of one image: what :func:`set_threads` was told, or torch's number."""
    return _alone or torch.get_num_threads()
