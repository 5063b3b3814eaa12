"""Small data sets for runs that are repeated many times: train/, val/ and test/ of class folders.

None of them touches the test images of Fashion-MNIST: all its splits are parts of the training images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.training.class_folders import choose, write_class_folders
from benchmarks.training.fashion import NAMES, read_fashion

Name = Literal["digits", "fashion-mnist"]


def write_slice(folder: Path, name: Name, train: int, val: int, test: int) -> None:
    """Writes a slice of ``name``, so many images of each class in each split; a folder that exists is left alone.

    Raises:
        DataError: the data set is not installed or has fewer images of a class.
    """
    if folder.exists():
        return
    images, labels, names = _READERS[name]()
    write_class_folders(folder, images, labels, names, choose(labels, {"train": train, "val": val, "test": test}))


def _digits() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    digits = load_digits()
    # The data has 17 grey levels, 0..16.
    return np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target, tuple("0123456789")


def _fashion() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    return (*read_fashion("train"), NAMES)


_READERS: dict[Name, Callable[[], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]] = {
    "digits": _digits,
    "fashion-mnist": _fashion,
}
