"""A device or a machine that runs out of memory, said in one line."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch

from marquee import hints
from marquee.training.core.checkpoint import CheckpointStore
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.errors import CheckpointError, TrainingError

_WORDS = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
    "_ALLOC_FAILED",
)
"""Of MPS, of the CPU's allocator on Linux and Windows, of the system where memory is shared, of cuBLAS and cuDNN: their
errors have no type of their own."""
_SMALLER = "raise --loop.accumulate, which divides a step into smaller parts, or lower --loop.batch-size"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, or Python, raised ``error`` because memory was not enough."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def explained(device: torch.device, remedy: Callable[[], str] = lambda: _SMALLER) -> Iterator[None]:
    """Turns a lack of memory within the block into one line.

    Args:
        device: where the work of the block is done.
        remedy: gives the part of the line that says what to do.

    Raises:
        TrainingError: the memory was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"{device}: out of memory{_detail(error)}; {remedy()}") from error


def explained_in_run(config: RunConfig, context: RunContext) -> AbstractContextManager[None]:
    """As :func:`explained`; the line also names the last checkpoint of the run, and how to go on from it."""
    return explained(context.device, partial(_way_on, config, context))


def _way_on(config: RunConfig, context: RunContext) -> str:
    try:
        last = CheckpointStore(context.folder.checkpoints, config.checkpoint.keep).find("last")
    except CheckpointError as error:
        return f"{_SMALLER}; and there is no checkpoint to go on from: {error}"
    if last is None:
        return f"there is no checkpoint yet; {_SMALLER}"
    resume = hints.command("train", "--out", context.folder.path, "--resume")
    return (
        f"the last checkpoint, {last}, is intact; train in a new --out, and {_SMALLER}; or, where something else took "
        f"the memory, end it and resume with: {resume}"
    )


def _detail(error: BaseException) -> str:
    """What PyTorch says of sizes, in brackets, without its general advice."""
    said = " ".join(str(error).split()).partition(" Of the allocated memory")[0][:300]
    return f" ({said})" if said else ""
