"""The batches of a run: rows in memory, cut out by index."""

from collections.abc import Iterator, Sequence

import torch

from marquee.training.core.objective import Tensors
from marquee.training.core.sampler import DistributedBatchSampler


class TrainingBatches:
    """The batches of an epoch, from the sampler's indices; see :data:`marquee.training.core.sampler.Loader`.

    Args:
        tensors: each with a row for each training row.
        sampler: set its ``epoch`` before each iteration.
    """

    def __init__(self, tensors: Tensors, sampler: DistributedBatchSampler) -> None:
        self._tensors, self._sampler = tensors, sampler

    def __iter__(self) -> Iterator[Tensors]:
        for share in self._sampler.shares():
            rows = torch.tensor(share)
            yield tuple(tensor[rows] for tensor in self._tensors)


class EvaluationBatches:
    """All rows in order.

    Args:
        tensors: each with a row for each row.
        size: rows of a batch; the last may have fewer.
    """

    def __init__(self, tensors: Tensors, size: int) -> None:
        self._tensors, self._size = tensors, size

    def __iter__(self) -> Iterator[Tensors]:
        for start in range(0, len(self._tensors[0]), self._size):
            yield tuple(tensor[start : start + self._size] for tensor in self._tensors)


def share_of(tensors: Sequence[torch.Tensor], rank: int, world: int) -> Tensors:
    """Every ``world``-th row, beginning with ``rank``."""
    return tuple(tensor[rank::world] for tensor in tensors)
