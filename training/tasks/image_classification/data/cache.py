"""Decoded images in one memory-mapped file, so that they are decoded once and not once an epoch.

The operating system keeps the file in memory as long as there is room, one copy for all loader processes.
"""

import hashlib
import json
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marquee.handlers.core.host import usable_cores
from marquee.handlers.core.schema import to_dict
from marquee.handlers.inputs.image.decode import prepare, shrink
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.files import atomic_folder
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.data.loading import read_image
from marquee.training.tasks.image_classification.data.manifest import Record

AUTO_BYTES = 4_000_000_000
"""Size in bytes up to which decoded images are cached with ``--loop.cache auto``."""
UNLIMITED = sys.maxsize
"""A short side that no image exceeds: images are stored as they are decoded."""
_THREADS = 16
"""Largest number of images that are decoded at once, each of which takes its full size in memory."""
_INDEX, _PIXELS = "index.json", "pixels.bin"


class ImageCache:
    """The decoded images of some records, looked up by content.

    Args:
        folder: written by :func:`build_cache`.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        self._locations: dict[str, tuple[int, tuple[int, int, int]]] = {
            digest: (start, (height, width, channels)) for digest, start, height, width, channels in index["images"]
        }
        self._path = folder / _PIXELS
        self._pixels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A loader process maps the file itself: a copy of the map would be a copy of all pixels.
        return {**self.__dict__, "_pixels": None}

    def array(self, record: Record) -> np.ndarray:
        """uint8 (H, W, C) of ``record``; read-only."""
        if self._pixels is None:
            self._pixels = np.memmap(self._path, dtype=np.uint8, mode="r")
        start, shape = self._locations[record.sha256]
        return self._pixels[start : start + int(np.prod(shape))].reshape(shape)

    def image(self, record: Record) -> Image.Image:
        """The same as a Pillow image."""
        array = self.array(record)
        return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _decode(record: Record, spec: ImageSpec, short_side: int | None) -> np.ndarray:
    # If nothing is shrunk, an image is stored as the server decodes it.
    image = read_image(record, spec, None if short_side == UNLIMITED else short_side)
    if short_side is None:
        return prepare(image, spec)
    return np.atleast_3d(np.asarray(shrink(image, short_side, spec)))


def _decode_in_order(records: Sequence[Record], spec: ImageSpec, short_side: int | None) -> Iterator[np.ndarray]:
    """Each record's pixels, decoded a few images ahead of the caller.

    In threads: Pillow releases the GIL while decoding, and passing a small image between processes costs more than
    decoding it.
    """
    waiting: deque[Future[np.ndarray]] = deque()
    threads = min(_THREADS, usable_cores())
    pool = ThreadPoolExecutor(threads, "cache")
    try:
        for record in records:
            waiting.append(pool.submit(_decode, record, spec, short_side))
            if len(waiting) > threads + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def build_cache(
    folder: Path,
    records: Sequence[Record],
    spec: ImageSpec,
    short_side: int | None,
    progress: Progress,
) -> None:
    """Writes the cache ``folder``, unless it already contains these images.

    Args:
        folder: folder of the cache.
        records: the images.
        spec: how they are decoded.
        short_side: larger images are shrunk to it; None: images are prepared exactly as they are served.
        progress: where progress is reported.

    Raises:
        DataError: an image has changed since the manifest was made.
    """
    unique = list({record.sha256: record for record in records}.values())
    key = _key(unique, spec, short_side)
    if _is_complete(folder, key):
        return
    shutil.rmtree(folder, ignore_errors=True)
    images, start = [], 0
    with atomic_folder(folder) as staging, progress.task(f"decoding {folder.name}", len(unique)) as task:
        with open(staging / _PIXELS, "wb") as stream:
            for record, pixels in zip(unique, _decode_in_order(unique, spec, short_side), strict=True):
                stream.write(pixels.tobytes())
                images.append([record.sha256, start, *pixels.shape])
                start += pixels.size
                task.advance()
        (staging / _INDEX).write_text(json.dumps({"key": key, "bytes": start, "images": images}), "utf-8")


def decoded_bytes(records: Sequence[Record], spec: ImageSpec, short_side: int | None) -> int:
    """Largest size of a cache of ``records``; large JPEG files that are decoded at a reduced size take less."""
    if short_side is None:
        return len(records) * spec.crop * spec.crop * spec.channels
    total = 0.0
    for record in records:
        scale = min(1.0, short_side / max(1, min(record.width, record.height)))
        total += record.width * record.height * scale * scale * spec.channels
    return round(total)


def _key(records: Sequence[Record], spec: ImageSpec, short_side: int | None) -> str:
    """Identifies the content: the images and everything that determines their pixels."""
    facts = [to_dict(spec), short_side, [record.sha256 for record in records]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _is_complete(folder: Path, key: str) -> bool:
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        return bool(index["key"] == key and (folder / _PIXELS).stat().st_size == index["bytes"])
    except (OSError, ValueError, KeyError):
        return False
