"""A folder of JPEG photographs without a download: random crops of the photographs that come with scikit-image."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from marquee.training.files import atomic_folder

SIZE = (500, 375)
"""Width and height in pixels: the middle of what ImageNet's photographs have."""
QUALITY = 90
SOURCES = (
    "astronaut",
    "chelsea",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)


def write_photos(folder: Path, train: int, val: int, seed: int = 0) -> None:
    """Writes ``folder/train/CLASS/0000.jpg`` ... and ``folder/val/...``, one class a photograph; once.

    The decoders of all contenders have the same work with them; what the network learns from them does not matter.

    Args:
        folder: left alone where it exists.
        train: number of training images.
        val: number of validation images.
        seed: equal seeds give equal pixels.
    """
    if folder.exists():
        return
    photographs = {name: Image.fromarray(getattr(skimage.data, name)()) for name in SOURCES}
    random = np.random.default_rng(seed)
    with atomic_folder(folder) as staging:
        for split, count in (("train", train), ("val", val)):
            for number in range(count):
                name = SOURCES[number % len(SOURCES)]
                target = staging / split / name / f"{number:04d}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                _random_crop(photographs[name], random).save(target, quality=QUALITY)


def _random_crop(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of 40 to 100 % of the largest side that fits, resized to :data:`SIZE`."""
    share = random.uniform(0.4, 1.0) * min(photograph.width / SIZE[0], photograph.height / SIZE[1])
    width, height = share * SIZE[0], share * SIZE[1]
    left, top = random.uniform(0, photograph.width - width), random.uniform(0, photograph.height - height)
    return photograph.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
