"""Images as the model takes them: uint8 (N, crop, crop, channels) and int64 labels (N,), or float (N, labels)."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.image.decode import decode, prepare
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import DataError
from marquee.training.core.seeding import local_seed
from marquee.training.tasks.classification.names import canonical
from marquee.training.tasks.image_classification.data.manifest import Record, one_name, several_names

_SHOWN = 20
"""Labels that a message lists."""

Target = int | torch.Tensor
"""An index; or, where an image may have several labels, float32 (labels,) of zeros and ones."""


def read_image(record: Record, spec: ImageSpec, short_side: int | None = None) -> Image.Image:
    """Decodes one image of a manifest with the served decoder.

    Args:
        record: the image.
        spec: how it is decoded.
        short_side: as in :func:`marquee.handlers.inputs.image.decode.decode`.

    Raises:
        DataError: the file has changed since the manifest was made.
    """
    try:
        content = Path(record.path).read_bytes()
        if record.sha256 and hashlib.sha256(content).hexdigest() != record.sha256:
            raise DataError(f"{record.path}: has changed since the manifest was made; train into a new folder")
        return decode(content, spec, short_side)
    except (InputError, OSError) as error:
        raise DataError(f"{record.path}: was readable when the manifest was made, but no longer is: {error}") from error


class TargetEncoder:
    """A record's label as a target: the index of its class.

    Args:
        labels: class names in the order of their indices.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._index = {label: i for i, label in enumerate(labels)}
        # Bundles from before labels were compared in NFC may have others.
        self._alike = {canonical(label): i for i, label in enumerate(labels)} | self._index

    def __call__(self, record: Record) -> Target:
        """The target of ``record``.

        Raises:
            DataError: a label is not one of the model's.
        """
        return self.indices(record, one_name(record))[0]

    def indices(self, record: Record, names: Sequence[str]) -> list[int]:
        """The indices of class names."""
        try:
            return [self._alike[name] for name in names]
        except KeyError as error:
            labels = list(self._index)
            known = ", ".join(labels[:_SHOWN]) + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")
            raise DataError(f"{record.path}: class {error.args[0]!r} is not one of the model's: {known}") from None


class MultiHotEncoder(TargetEncoder):
    """A multi-hot target, for an image that may have several labels."""

    def __call__(self, record: Record) -> Target:
        """See :class:`TargetEncoder`."""
        target = torch.zeros(len(self._index))
        target[self.indices(record, several_names(record))] = 1
        return target


class Decoded(Protocol):
    """Images that were decoded in advance (see :mod:`marquee.training.tasks.image_classification.data.cache`)."""

    def array(self, record: Record) -> np.ndarray:
        """uint8 (H, W, C)."""

    def image(self, record: Record) -> Image.Image:
        """The same as a Pillow image."""


class EvaluationImages(Dataset[tuple[torch.Tensor, Target]]):
    """Images exactly as they are served; item ``i`` belongs to ``records[i]``.

    Args:
        records: the images to evaluate.
        encode: returns a record's target.
        spec: the served preprocessing.
        cache: holds the prepared arrays; None: every image is read and decoded.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encode: Callable[[Record], Target],
        spec: ImageSpec,
        cache: Decoded | None = None,
    ) -> None:
        self._records = records
        self._cache = cache
        self._encode = encode
        self._spec = spec
        for record in records:  # an unknown class is reported here
            encode(record)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        record = self._records[index]
        prepared = self._cache.array(record) if self._cache else prepare(read_image(record, self._spec), self._spec)
        # torch needs a writable array; Pillow's buffer and the cache are read-only.
        return torch.from_numpy(prepared.copy()), self._encode(record)


class TrainingImages(Dataset[tuple[torch.Tensor, Target]]):
    """Augmented images, addressed by (epoch, index): the same address always gives the same pixels.

    Where a sampler draws an image several times in an epoch, the number of the draw is a third part of the address.

    Args:
        records: the images to train on.
        encode: returns a record's target.
        spec: the served preprocessing.
        augment: a Pillow image -> uint8 (crop, crop, channels), at random.
        seed: the run's seed.
        cache: holds the decoded images; None: every image is read and decoded.
        short_side: the short side that images may be shrunk to before augmentation (see
            :func:`marquee.training.tasks.image_classification.data.augment.crop_source`); None: as served.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encode: Callable[[Record], Target],
        spec: ImageSpec,
        augment: Callable[[Image.Image], torch.Tensor],
        seed: int,
        cache: Decoded | None = None,
        short_side: int | None = None,
    ) -> None:
        self._cache = cache
        self._short_side = short_side
        self._records = records
        self._encode = encode
        self._spec = spec
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, address: tuple[int, ...]) -> tuple[torch.Tensor, Target]:
        _, index, *_ = address
        record = self._records[index]
        with local_seed(self._seed, "augment", *address):
            cached = self._cache.image(record) if self._cache else None
            image = read_image(record, self._spec, self._short_side) if cached is None else cached
            return self._augment(image), self._encode(record)
