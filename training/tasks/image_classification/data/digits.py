"""Writes scikit-learn's handwritten digits out as a folder of PNG files: the demo's data set.

1,797 real 8x8 images of ten classes (Alpaydin and Kaynak, UCI Machine Learning Repository, 1998), which come with
scikit-learn and need no download.
"""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from marquee.training.core.files import atomic_folder

TEST_EVERY = 5
"""Every fifth image of a class is held out."""


def write_digits(folder: Path) -> int:
    """Writes ``folder/train/0/0000.png`` ... and ``folder/test/...``; returns the number of test images."""
    digits = load_digits()
    seen: Counter[int] = Counter()
    tests = 0
    with atomic_folder(folder) as staging:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            held_out = seen[label] % TEST_EVERY == TEST_EVERY - 1
            seen[label] += 1
            tests += held_out
            target = staging / ("test" if held_out else "train") / str(label) / f"{number:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            # The data has 17 grey levels, 0..16.
            Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(target)
    return tests
