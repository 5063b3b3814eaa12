"""Which items make up each step, and the processes that load them."""

import signal
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from marquee.handlers.core.host import usable_cores
from marquee.training.core.errors import DataError
from marquee.training.core.guarded_loader import GuardedLoader
from marquee.training.core.seeding import derive_seed

_SECONDS_TO_SAVE = 60
"""How long a loader process survives a SIGTERM, so that the trainer can finish its step and save."""
_ENOUGH_ITEMS = 256
"""With fewer items, starting loader processes costs more time than it saves."""

Loader = Iterable[Any]
"""Yields batches: lists or tuples of tensors with one row per item. A training loader has as many as its sampler."""


class DistributedBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Which items make up each training step, for one rank.

    Each epoch is a new permutation, cut into global batches; a rank takes every ``world``-th item of each. An
    incomplete last batch is dropped (a batch of one item has no variance for batch norm).

    Args:
        items: number of training items.
        batch_size: items per step, over all ranks.
        seed: determines all permutations.
        rank: this process.
        world: number of processes.
        passes: permutations in an epoch.
    """

    def __init__(self, items: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, passes: int = 1) -> None:
        self._items, self._passes = items, passes
        self._batch_size = min(batch_size, items - items % world)
        self._seed, self._rank, self._world = seed, rank, world
        self.epoch = 0
        """The epoch of the next iteration."""
        self.start = 0
        """Batches of that epoch to skip, after a resume."""
        if batch_size % world or self._batch_size == 0:
            raise DataError(f"batch size {batch_size} and {items} items cannot be shared by {world} processes")

    def __len__(self) -> int:
        """Steps per epoch."""
        return self._passes * self._steps_of_a_pass

    @property
    def items_of_a_step(self) -> int:
        """Items in this rank's share of a step."""
        return self._batch_size // self._world

    @property
    def _steps_of_a_pass(self) -> int:
        return self._items // self._batch_size

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for items in self.shares():
            yield [(self.epoch, index) for index in items]

    def shares(self) -> Iterator[list[int]]:
        """The indices of the items in this rank's share of each step, from ``start`` to the end of the epoch."""
        for number in range(self.start // self._steps_of_a_pass, self._passes):
            order = self._order(self.epoch, number)
            for step in range(self._steps_of_a_pass):
                if number * self._steps_of_a_pass + step >= self.start:
                    yield self._share(order, step)

    def items_of(self, epoch: int, step: int) -> list[int]:
        """Indices of the items in this rank's share of a step."""
        number, step = divmod(step, self._steps_of_a_pass)
        return self._share(self._order(epoch, number), step)

    def _order(self, epoch: int, number: int) -> list[int]:
        seed = derive_seed(self._seed, "order", epoch * self._passes + number)
        return torch.randperm(self._items, generator=torch.Generator().manual_seed(seed)).tolist()

    def _share(self, order: list[int], step: int) -> list[int]:
        return order[step * self._batch_size : (step + 1) * self._batch_size][self._rank :: self._world]


class BalancedBatchSampler(DistributedBatchSampler):
    """Draws every stratum equally often, however few items it has.

    A pass has as many draws as there are items. The items of a stratum take turns: each of them is drawn as often as
    the others, or once more. What is drawn follows from the seed and the pass alone, as the permutations of the base
    class do. An address has the number of the draw as its third part, so that the variations of an item that is drawn
    several times in a pass differ.

    Args:
        strata: the stratum of each item.
        batch_size: see :class:`DistributedBatchSampler`, as for the other arguments.
        seed: see there.
        rank: see there.
        world: see there.
        passes: see there.
    """

    def __init__(
        self, strata: Sequence[Hashable], batch_size: int, seed: int, rank: int = 0, world: int = 1, passes: int = 1
    ) -> None:
        super().__init__(len(strata), batch_size, seed, rank, world, passes)
        members: dict[Hashable, list[int]] = defaultdict(list)
        for index, stratum in enumerate(strata):
            members[stratum].append(index)
        self._members = list(members.values())

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for draws in super().shares():
            yield [(self.epoch, draw % self._items, draw // self._items) for draw in draws]

    def shares(self) -> Iterator[list[int]]:
        """See :class:`DistributedBatchSampler`."""
        for draws in super().shares():
            yield [draw % self._items for draw in draws]

    def items_of(self, epoch: int, step: int) -> list[int]:
        """See :class:`DistributedBatchSampler`."""
        return [draw % self._items for draw in super().items_of(epoch, step)]

    def _order(self, epoch: int, number: int) -> list[int]:
        """Draws in the order of a pass: ``index + items * draw``, where ``draw`` counts the draws of that item."""
        seed = derive_seed(self._seed, "balanced", epoch * self._passes + number)
        generator = torch.Generator().manual_seed(seed)
        each, more = divmod(self._items, len(self._members))
        with_more = set(torch.randperm(len(self._members), generator=generator)[:more].tolist())
        draws: list[int] = []
        for stratum, members in enumerate(self._members):
            wanted, turn = each + (stratum in with_more), 0
            while wanted > 0:
                order = torch.randperm(len(members), generator=generator)[:wanted].tolist()
                draws += [members[place] + self._items * turn for place in order]
                wanted, turn = wanted - len(order), turn + 1
        return [draws[place] for place in torch.randperm(len(draws), generator=generator).tolist()]


def training_loader(items: Dataset[Any], sampler: DistributedBatchSampler, workers: int, pin_memory: bool) -> Loader:
    """Loader over ``sampler``; set its ``epoch`` before each iteration."""
    loader = DataLoader(
        items,
        batch_sampler=sampler,
        pin_memory=pin_memory,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
    )
    return GuardedLoader(loader)


def evaluation_loader(items: Dataset[Any], batch_size: int, workers: int, pin_memory: bool = False) -> Loader:
    """Loader over ``items`` in order; the last batch may be smaller."""
    loader = DataLoader(
        items,
        batch_size=batch_size,
        pin_memory=pin_memory,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
    )
    return GuardedLoader(loader)


def resolve_workers(workers: int, items: int) -> int:
    """Loader processes for the setting ``workers``; -1: none for few items, where starting them would cost more."""
    if workers >= 0:
        return workers
    cores = usable_cores()
    return 0 if items < _ENOUGH_ITEMS else min(8, max(0, cores - 1))


def init_worker(_: int) -> None:
    """Initialises a loader process."""
    # Ctrl-C reaches every process of the terminal; the trainer decides when its loaders end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM may go to a whole process group, too, as SIGHUP does when the terminal is closed; if a loader died at
    # once, the unsaved steps would be lost.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.alarm(_SECONDS_TO_SAVE))
    torch.set_num_threads(1)
