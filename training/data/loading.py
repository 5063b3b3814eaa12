"""Feeds images to the model: uint8 (N, crop, crop, channels) and int64 labels (N,)."""

import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from marquee.handlers.errors import InputError
from marquee.handlers.host import usable_cores
from marquee.handlers.images import decode, prepare
from marquee.handlers.spec import ImageSpec
from marquee.training.data.manifest import Record, names_of
from marquee.training.errors import DataError
from marquee.training.seeding import derive_seed, local_seed

_SECONDS_TO_SAVE = 60
"""How long a loader outlives a SIGTERM, so that the trainer can finish its step and save."""

Loader = DataLoader[Any]
"""Yields batches: uint8 (N, crop, crop, channels) and int64 (N,), or for several labels an image float (N, labels)."""

Target = int | torch.Tensor
"""An index; or, where an image may have several labels, float32 (labels,) of zeros and ones."""


def read_image(record: Record, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """Decodes one image of a manifest with the served decoder.

    Args:
        record: the image.
        spec: how it is decoded.
        short_side: as in :func:`marquee.handlers.images.decode`.

    Raises:
        DataError: the file has changed since the manifest was made.
    """
    try:
        content = Path(record.path).read_bytes()
        if record.sha256 and hashlib.sha256(content).hexdigest() != record.sha256:
            raise DataError(f"{record.path}: has changed since the manifest was made; train into a new folder")
        return decode(content, spec, short_side)
    except (InputError, OSError) as error:
        raise DataError(f"{record.path}: was readable when the manifest was made, but now: {error}") from error


class Encoder:
    """A record's label as a target.

    Args:
        labels: class names in the order of their indices.
        multi_label: an image may have several.
    """

    def __init__(self, labels: Sequence[str], multi_label: bool) -> None:
        self._index = {label: i for i, label in enumerate(labels)}
        self._multi_label = multi_label

    def __call__(self, record: Record) -> Target:
        """The target of ``record``.

        Raises:
            DataError: a label is not one of the model's.
        """
        try:
            indices = [self._index[name] for name in names_of(record, self._multi_label)]
        except KeyError as error:
            known = ", ".join(self._index)
            raise DataError(f"{record.path}: class {error.args[0]!r} is not one of the model's: {known}") from None
        if not self._multi_label:
            return indices[0]
        target = torch.zeros(len(self._index))
        target[indices] = 1
        return target


class Decoded(Protocol):
    """Images that were decoded before (see :mod:`marquee.training.data.cache`)."""

    def array(self, record: Record) -> np.ndarray:
        """uint8 (H, W, C)."""

    def image(self, record: Record) -> Image.Image:
        """The same as a Pillow image."""


class EvaluationImages(Dataset[tuple[torch.Tensor, Target]]):
    """Images exactly as they are served; item ``i`` belongs to ``records[i]``.

    Args:
        records: what is evaluated.
        labels: class names in the order of their indices.
        spec: the served preprocessing.
        cache: holds the prepared arrays; None: every image is read and decoded.
        multi_label: an image may have several labels.
    """

    def __init__(
        self,
        records: Sequence[Record],
        labels: Sequence[str],
        spec: ImageSpec,
        cache: Decoded | None = None,
        multi_label: bool = False,
    ) -> None:
        self._records = records
        self._cache = cache
        self._encode = Encoder(labels, multi_label)
        self._spec = spec
        for record in records:
            self._encode(record)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        record = self._records[index]
        prepared = self._cache.array(record) if self._cache else prepare(read_image(record, self._spec), self._spec)
        # torch wants a writable array, and neither Pillow's buffer nor the cache is.
        return torch.from_numpy(prepared.copy()), self._encode(record)


class TrainingImages(Dataset[tuple[torch.Tensor, Target]]):
    """Augmented images, addressed by (epoch, index): the same address always gives the same pixels.

    Args:
        records: what is trained on.
        labels: class names in the order of their indices.
        spec: the served preprocessing.
        augment: a Pillow image -> uint8 (crop, crop, channels), at random.
        seed: of the run.
        cache: holds the decoded images; None: every image is read and decoded.
        multi_label: an image may have several labels.
        short_side: what images may be shrunk to before they are varied (see
            :func:`marquee.training.data.augment.crop_source`); None: as served.
    """

    def __init__(
        self,
        records: Sequence[Record],
        labels: Sequence[str],
        spec: ImageSpec,
        augment: Callable[[Image.Image], torch.Tensor],
        seed: int,
        cache: Decoded | None = None,
        multi_label: bool = False,
        short_side: int | None = None,
    ) -> None:
        self._cache = cache
        self._short_side = short_side
        self._records = records
        self._encode = Encoder(labels, multi_label)
        self._spec = spec
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        epoch, index = address
        record = self._records[index]
        with local_seed(self._seed, "augment", epoch, index):
            cached = self._cache.image(record) if self._cache else None
            image = read_image(record, self._spec, self._short_side) if cached is None else cached
            return self._augment(image), self._encode(record)


class BatchPlan(Sampler[list[tuple[int, int]]]):
    """Which images make up each training step, for one rank.

    Each epoch is a new permutation, cut into global batches; a rank takes every ``world``-th image of each. The rest
    that fills no batch is left out of that epoch (a batch of one image has no variance for batch norm).

    Args:
        images: number of training images.
        batch_size: images a step, over all ranks.
        seed: decides all permutations.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, images: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self._images = images
        self._batch_size = min(batch_size, images - images % world)
        self._seed, self._rank, self._world = seed, rank, world
        self.epoch = 0
        """The epoch that the next iteration walks through."""
        self.start = 0
        """Batches of that epoch to skip, after a resume."""
        if batch_size % world or self._batch_size == 0:
            raise DataError(f"batch size {batch_size} and {images} images cannot be shared by {world} processes")

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._images // self._batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order(self.epoch)
        for step in range(self.start, len(self)):
            yield [(self.epoch, index) for index in self._share(order, step)]

    def images_of(self, epoch: int, step: int) -> list[int]:
        """Indices of the images that this rank's share of a step holds."""
        return self._share(self._order(epoch), step)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
        return torch.randperm(self._images, generator=generator).tolist()

    def _share(self, order: list[int], step: int) -> list[int]:
        return order[step * self._batch_size : (step + 1) * self._batch_size][self._rank :: self._world]


def training_loader(images: TrainingImages, plan: BatchPlan, workers: int, pin_memory: bool) -> Loader:
    """Loader over ``plan``; set ``plan.epoch`` before each iteration."""
    return DataLoader(
        images,
        batch_sampler=plan,
        pin_memory=pin_memory,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
    )


def evaluation_loader(images: EvaluationImages, batch_size: int, workers: int, pin_memory: bool = False) -> Loader:
    """Loader in order, the last batch smaller."""
    return DataLoader(
        images,
        batch_size=batch_size,
        pin_memory=pin_memory,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=init_worker,
    )


def resolve_workers(workers: int, images: int) -> int:
    """Loader processes for the setting ``workers``; -1: none for few images, where starting them would cost more."""
    if workers >= 0:
        return workers
    cores = usable_cores()
    return 0 if images < 256 else min(8, max(0, cores - 1))


def init_worker(_: int) -> None:
    """Every loader process starts with this."""
    # Ctrl-C reaches every process of the terminal; the trainer decides when its loaders end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGTERM may go to a whole process group, too; a loader that died at once would take the unsaved steps with it.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_TO_SAVE))
    torch.set_num_threads(1)
