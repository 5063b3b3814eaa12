"""Data sets as class folders: Fashion-MNIST from Debian's package, and slices of it and of scikit-learn's digits.

Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747): 60,000 training and 10,000 test
images, grey, 28x28, ten classes. Nothing here but :func:`write_fashion_mnist` opens the files of its test images.
"""

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from marquee.training.core.errors import DataError
from marquee.training.core.files import atomic_folder

SOURCE = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
# The data set writes T-shirt/top, which no folder can be called.
NAMES = ["T-shirt-top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
Name = Literal["digits", "fashion-mnist"]


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes, with the shape that it names.

    Two zero bytes, the type of the values, the number of dimensions, each dimension as a big-endian 32-bit number, then
    the values (https://web.archive.org/web/2024/http://yann.lecun.com/exdb/mnist/, at its end).

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(content, ">u4", content[3], 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise DataError(f"{path}: not readable: {error}; install the Debian package {PACKAGE}") from error


def write_fashion_mnist(folder: Path, source: Path = SOURCE) -> None:
    """Writes the whole data set, ``folder/train/CLASS/00000.png`` ... and, numbered on, ``folder/test/...``; once."""
    if folder.exists():
        return
    parts = [_read_fashion(part, source) for part in ("train", "t10k")]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    border = len(parts[0][1])
    _write(folder, images, labels, NAMES, {"train": range(border), "test": range(border, len(labels))})


def write_tuning_set(folder: Path, source: Path = SOURCE, held_out: int = 1000) -> None:
    """Writes Fashion-MNIST's training images alone, ``held_out`` of each class as ``folder/test``; once."""
    if not folder.exists():
        images, labels = _read_fashion("train", source)
        _write(folder, images, labels, NAMES, choose(labels, {"test": held_out}, rest="train"))


def write_slice(folder: Path, name: Name, counts: Mapping[str, int]) -> None:
    """Writes a slice of digits or of Fashion-MNIST's training images; once. ``counts``: see :func:`choose`."""
    if folder.exists():
        return
    if name == "digits":
        digits = load_digits()
        # The data has 17 grey levels, 0..16.
        images, labels, names = np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target, list("0123456789")
    else:
        (images, labels), names = _read_fashion("train", SOURCE), NAMES
    _write(folder, images, labels, names, choose(labels, counts))


def choose(labels: np.ndarray, counts: Mapping[str, int], rest: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    """Disjoint random splits with equally many images of each class: name -> int (M,), sorted indices.

    Args:
        labels: int (N,).
        counts: name of a split -> its images of each class.
        rest: a split that gets all other images; empty: they are left out.
        seed: equal seeds give equal splits.

    Raises:
        DataError: a class has fewer images.
    """
    random = np.random.default_rng(seed)
    borders = np.cumsum(list(counts.values()))
    parts = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        if borders[-1] > len(members):
            raise DataError(f"class {label}: {len(members)} images, but {borders[-1]} are asked for")
        parts.append(np.split(members, borders))
    names = [*counts, *([rest] if rest else [])]  # without a rest the last of each class's parts is left out
    return {name: np.sort(np.concatenate(part)) for name, part in zip(names, zip(*parts, strict=True), strict=False)}


def _read_fashion(part: str, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 28, 28), and labels, uint8 (N,), of the part ``train`` or ``t10k``."""
    return read_idx(source / f"{part}-images-idx3-ubyte.gz"), read_idx(source / f"{part}-labels-idx1-ubyte.gz")


def _write(
    folder: Path, images: np.ndarray, labels: np.ndarray, names: Sequence[str], splits: Mapping[str, Iterable[int]]
) -> None:
    """Writes ``folder/SPLIT/NAME/00000.png``, each file with the number of its image: all at once, or nothing."""
    with atomic_folder(folder) as staging:
        for split, chosen in splits.items():
            for name in names:
                (staging / split / name).mkdir(parents=True)
            for number in chosen:
                Image.fromarray(images[number]).save(staging / split / names[labels[number]] / f"{number:05d}.png")
