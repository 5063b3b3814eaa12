"""Opened images -> one uint8 batch, decoded on several cores.

Pillow decodes and resizes outside of Python's lock, so threads are enough.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from .errors import InputError
from .images import decode_opened, prepare
from .spec import ImageSpec

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The good images of a batch as an engine takes them, and the errors of the others."""

    pixels: np.ndarray
    """uint8 (good images, crop, crop, channels), in the order of the images."""
    errors: tuple[InputError | None, ...]
    """One for each image, good or not; None for a good one."""

    def with_errors(self, answers: Sequence[T]) -> list[T | InputError]:
        """One answer a row of ``pixels`` -> one an image: errors are where their images were."""
        rest = iter(answers)
        return [next(rest) if error is None else error for error in self.errors]


class BatchLoader:
    """Decodes the images of a batch into one array; safe to use from several threads.

    Decoding does not overlap with the engine: both take all cores that the worker has, and halves of a batch in turn
    took longer than one after the other (benchmarks/serving).

    Args:
        spec: how images are decoded and resized.
        threads: images that are decoded at once; each may need ``spec.max_pixels`` pixels of memory. 1: no thread is
            started, as for a batch of one image.
    """

    def __init__(self, spec: ImageSpec, threads: int = 1) -> None:
        self._spec = spec
        # Its threads start when the first batch of several images comes.
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def load(self, images: Sequence[Image.Image | InputError]) -> Batch:
        """Decodes and resizes every image, and closes it.

        Args:
            images: from :func:`marquee.handlers.images.open_image` or :func:`marquee.handlers.images.from_nested_list`;
            an error stays
                where it is.

        Returns:
            The batch. An image that cannot be decoded becomes its error; the others are not touched by it.
        """
        side, channels = self._spec.crop, self._spec.channels
        opened = [image for image in images if isinstance(image, Image.Image)]
        rows = np.empty((len(opened), side, side, channels), np.uint8)
        if self._pool is None or len(opened) < 2:
            found = [self._fill(row, image) for row, image in zip(rows, opened, strict=True)]
        else:
            found = list(self._pool.map(self._fill, rows, opened))
        if any(found):
            rows = rows[[error is None for error in found]]
        rest = iter(found)
        return Batch(rows, tuple(next(rest) if isinstance(image, Image.Image) else image for image in images))

    def _fill(self, row: np.ndarray, image: Image.Image) -> InputError | None:
        """Writes the image's pixels into ``row``, uint8 (crop, crop, channels); or gives the reason why not."""
        try:
            row[:] = prepare(decode_opened(image, self._spec), self._spec)
        except InputError as error:
            return error
        except MemoryError:
            # TorchServe answers a MemoryError with 507 for the whole batch.
            return InputError("too_large", "the server has not enough memory to decode this image")
        except Exception:
            # A mistake of ours that one image brings to light must not fail the images batched with it.
            logger.exception("an image could not be decoded")
            return InputError("internal_error", "the image could not be decoded")
        finally:
            image.close()  # the decoded pixels would otherwise stay until the whole batch is answered
        return None
