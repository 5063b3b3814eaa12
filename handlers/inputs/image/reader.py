"""Image files and nested lists of a request -> one uint8 batch, decoded on several cores.

Pillow decodes and resizes outside of Python's lock, so threads are enough.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ...core.arrays import Arrays
from ...core.batch import Batch
from ...core.errors import InputError
from ...core.input import attempt
from ...core.oip.tensor import Tensor, check_items
from .base64_text import decode_base64, file_of_text
from .decode import decode_opened, from_nested_list, open_image, prepare
from .errors import STATUS_BY_CODE, ImageError
from .json_forms import find_columns, find_image
from .nested import from_array
from .spec import PIXELS, ImageSpec
from .tensors import Element, elements_of, file_of, name_of

logger = logging.getLogger(__name__)


class ImageReader:
    """See :class:`marquee.handlers.core.input.Input`. Its items are Pillow images that are not decoded yet.

    Decoding does not overlap with the engine: both take all cores that the worker has, and halves of a batch in turn
    took longer than one after the other (benchmarks/serving).

    Args:
        spec: how images are decoded and resized.
        threads: images that are decoded at once; each may need ``spec.max_pixels`` pixels of memory. 1: no thread is
            started, as for a batch of one image.
    """

    codes: Mapping[str, int] = STATUS_BY_CODE
    max_items = 64

    def __init__(self, spec: ImageSpec, threads: int = 1) -> None:
        self._spec = spec
        # Its threads start when the first batch of several images comes.
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def opener(self) -> "ImageOpener":
        """For one request."""
        return ImageOpener(self._spec)

    def check(self, arrays: Arrays) -> None:
        """Raises ValueError for anything but uint8 (N, crop, crop, channels)."""
        side, channels = self._spec.crop, self._spec.channels
        pixels = arrays.get(PIXELS)
        if pixels is None or pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, channels):
            got = "nothing" if pixels is None else f"{pixels.dtype} {pixels.shape}"
            raise ValueError(f"expected {PIXELS}: uint8 (N, {side}, {side}, {channels}), got {got}")

    def collate(self, items: Sequence[Image.Image | InputError]) -> Batch:
        """Decodes and resizes every image, and closes it.

        Args:
            items: from :class:`ImageOpener`; an error stays where it is.

        Returns:
            The batch. An image that cannot be decoded becomes its error; the others are not touched by it.
        """
        side, channels = self._spec.crop, self._spec.channels
        opened = [item for item in items if isinstance(item, Image.Image)]
        pixels = np.empty((len(opened), side, side, channels), np.uint8)
        if self._pool is None or len(opened) < 2:
            errors = [self._fill(row, image) for row, image in zip(pixels, opened, strict=True)]
        else:
            errors = list(self._pool.map(self._fill, pixels, opened))
        if any(errors):
            pixels = pixels[[error is None for error in errors]]
        rest = iter(errors)
        return Batch({PIXELS: pixels}, tuple(next(rest) if isinstance(item, Image.Image) else item for item in items))

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


class ImageOpener:
    """Opens the images of one request; together they may have as many pixels as a single one.

    Without a common budget, a request of 64 tiny files that decode to the limit would hold a worker for minutes. It is
    kept by what the files' headers say, so that it holds whatever is decoded first, and whether it can be.
    """

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec
        self._left = spec.max_pixels

    def file(self, data: bytes | bytearray) -> Image.Image:
        """An image file's content, or its base64 as text -> the image, not decoded yet."""
        content = file_of_text(data)
        return self._open(open_image, data if content is None else content)

    def instance(self, value: Any) -> Image.Image:
        """``{"b64": "<base64 of a file>"}``, ``{"image_data": [[...]]}``, ... -> the image."""
        image = find_image(value)
        if image.is_numbers:
            return self._open(partial(from_nested_list, value_range=image.value_range), image.value)
        return self._open(open_image, decode_base64(image.value, image.name))

    def items(self, body: Any) -> tuple[list[Any], bool] | None:
        """The images of ``{"inputs": ...}``; None for other bodies: one image, or the instances of the general form."""
        images = find_columns(body)
        if images is None:
            return None
        check_items(len(images), ImageReader.max_items)
        return [attempt(self.instance, image) for image in images], True

    def tensors(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The images of a request of the Open Inference Protocol (see :mod:`.tensors`)."""
        return [attempt(self._element, element) for element in elements_of(tensors, ImageReader.max_items)]

    def _element(self, element: Element) -> Image.Image:
        tensor, value = element
        if isinstance(value, np.ndarray):
            of_pixels = partial(from_array, value_range=tensor.parameters.get("range"), name=name_of(tensor))
            return self._open(of_pixels, value)
        return self._open(open_image, file_of(tensor, value))

    def _open(self, open_image: Callable[[Any, ImageSpec], Image.Image], value: Any) -> Image.Image:
        try:
            image = open_image(value, replace(self._spec, max_pixels=max(1, self._left)))
        except InputError as error:
            if error.code == "too_many_pixels" and self._left < self._spec.max_pixels:
                limit = self._spec.max_pixels
                raise ImageError(error.code, f"the images of one request may have {limit} pixels together") from error
            raise
        self._left -= image.width * image.height
        return image
