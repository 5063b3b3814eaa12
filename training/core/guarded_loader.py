"""A loader whose processes end in one line for people, not in a trace of another process."""

import errno
import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from marquee.training.core.errors import TrainingError

_MEMORY = "make /dev/shm larger (docker run --shm-size=1g)"
_FEWER = "lower --loop.workers (0: no processes)"
_FILES, _FILES_OF_A_WORKER = 16, 8
"""Open files that must be possible beside those of the loader's processes, and for each of them."""


class GuardedLoader:
    """Yields the batches of a loader.

    Args:
        loader: of PyTorch.
    """

    def __init__(self, loader: "DataLoader[Any]") -> None:
        self._loader = loader
        self._started = False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """The batches.

        Raises:
            TrainingError: its processes cannot be started, or one of them was ended by the system.
        """
        try:
            if self._loader.num_workers and not self._started:
                # A loader that runs out of them while it starts leaves a trace of its own behind.
                _check_files(_FILES + _FILES_OF_A_WORKER * self._loader.num_workers)
                self._started = True
            yield from self._loader
        except OSError as error:
            if (line := _system(error)) is None:
                raise
            raise TrainingError(line) from error
        except RuntimeError as error:
            if (line := _death(" ".join(str(error).split()))) is None:
                raise
            raise TrainingError(line) from error


def _check_files(number: int) -> None:
    """Raises OSError where so many files cannot be opened."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(number))
    finally:
        for handle in opened:
            os.close(handle)


def _system(error: OSError) -> str | None:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"too many open files for the loader's processes; raise ulimit -n, or {_FEWER}"
    if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
        return f"the loader's processes: {error.strerror}; {_MEMORY}, or {_FEWER}"
    return None


def _death(said: str) -> str | None:
    """The line for what PyTorch says where a loader's process has ended; None for any other error."""
    if not any(words in said for words in ("DataLoader worker", "shared memory", "torch_shm")):
        return None
    if any(words in said for words in ("Bus error", "shared memory", "torch_shm", "No space left")):
        return f"the loader's processes have no shared memory left; {_MEMORY}, or {_FEWER}"
    return f"a process of the loader was ended by the system, as where memory is short ({said[:200]}); {_FEWER}"
