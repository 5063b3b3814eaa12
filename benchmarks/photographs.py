"""JPEG photographs of any size without a download: random crops of those that come with scikit-image."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from marquee.training.core.files import atomic_folder

SIZE = (500, 375)
"""Width and height in pixels: the middle of what ImageNet's photographs have."""
SOURCES = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
GRAIN = 6.0
"""Standard deviation, in grey levels of 255, that makes an enlarged crop as large a file as a telephone writes: without
it the crop is smoother than what a camera sees, and decoded faster."""


def write_photographs(
    folder: Path, size: tuple[int, int], count: int, grain: float = 0.0, seed: int = 0, by_class: bool = False
) -> list[Path]:
    """Writes ``folder/000.jpg``, ...; once.

    Args:
        folder: left alone where it exists.
        size: width and height in pixels.
        count: how many.
        grain: noise, see :data:`GRAIN`.
        seed: equal seeds give equal pixels.
        by_class: in folders, one class a photograph.

    Returns:
        Their paths, in the order of their numbers.
    """
    if not folder.exists():
        random = np.random.default_rng([seed, *size])
        with atomic_folder(folder) as staging:
            for number in range(count):
                name = SOURCES[number % len(SOURCES)]
                target = staging / (name if by_class else "") / f"{number:03d}.jpg"
                target.parent.mkdir(exist_ok=True)
                image = _crop(Image.fromarray(getattr(skimage.data, name)()), size, random)
                if grain:
                    pixels = np.asarray(image, np.float32)
                    noisy = pixels + random.normal(0, grain, pixels.shape).astype(np.float32)
                    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(target, quality=90)
    return sorted(folder.rglob("*.jpg"), key=lambda path: path.name)


def _crop(photograph: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """A part of 40 to 100 % of the largest side that fits, resized to ``size``."""
    share = random.uniform(0.4, 1.0) * min(photograph.width / size[0], photograph.height / size[1])
    width, height = share * size[0], share * size[1]
    left, top = random.uniform(0, photograph.width - width), random.uniform(0, photograph.height - height)
    return photograph.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
