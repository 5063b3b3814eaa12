"""JPEG photographs of any size, made of those that come with scikit-image.

A crop that is enlarged to twelve megapixels is smoother than what a camera writes and would be decoded faster, so every
photograph gets grain, as a sensor's noise; with it, their bytes are about those of a telephone's pictures.
"""

import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from benchmarks.training.photos import QUALITY, SOURCES
from marquee.training.files import write_atomic

GRAIN = 6.0
"""Standard deviation of the noise in grey levels, 0..255."""


def write_photographs(folder: Path, size: tuple[int, int], count: int, seed: int = 0) -> list[Path]:
    """Writes ``folder/000.jpg``, ... where they are missing.

    Args:
        folder: made when missing.
        size: width and height in pixels.
        count: how many.
        seed: equal seeds give equal pixels.

    Returns:
        Their paths.
    """
    random = np.random.default_rng([seed, *size])
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    if all(path.is_file() for path in paths):
        return paths
    for number, path in enumerate(paths):
        photograph = Image.fromarray(getattr(skimage.data, SOURCES[number % len(SOURCES)])())
        write_atomic(path, _encode(_crop(photograph, size, random), random))
    return paths


def _crop(photograph: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A part of 40 to 100 % of the largest side that fits, resized to ``size``."""
    share = random.uniform(0.4, 1.0) * min(photograph.width / size[0], photograph.height / size[1])
    width, height = share * size[0], share * size[1]
    left, top = random.uniform(0, photograph.width - width), random.uniform(0, photograph.height - height)
    return photograph.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _encode(image: Image.Image, random: np.random.Generator) -> bytes:
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + random.normal(0, GRAIN, pixels.shape).astype(np.float32)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
