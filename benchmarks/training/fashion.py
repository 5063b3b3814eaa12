"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, https://arxiv.org/abs/1708.07747) as class folders.

60,000 training and 10,000 test images, grey, 28x28, ten classes; Debian packages them as dataset-fashion-mnist.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.training.class_folders import choose, write_class_folders
from marquee.training.errors import DataError

SOURCE = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
NAMES = (
    "T-shirt-top",  # the data set writes T-shirt/top, which no folder can be called
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
HELD_OUT = 1000
"""Training images of each class that stand in for the test images while tuning."""
_UBYTE = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    The format: two zero bytes, the type of the values, the number of dimensions, each dimension as a big-endian 32-bit
    number, then the values (https://web.archive.org/web/2024/http://yann.lecun.com/exdb/mnist/, at its end).

    Returns:
        uint8, with the shape that the file names.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; install the Debian package {PACKAGE}, or name its folder with --source"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not readable: {error}; install the Debian package {PACKAGE} again") from error
    dimensions = content[3] if content[:3] == bytes([0, 0, _UBYTE]) and len(content) > 3 else 0
    values = content[4 + 4 * dimensions :]
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, 4)) if values else ()
    if not shape or math.prod(shape) != len(values):
        raise DataError(f"{path}: no complete idx file of unsigned bytes; install the Debian package {PACKAGE} again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_fashion(part: Literal["train", "t10k"], source: Path = SOURCE) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, 28, 28), and labels, uint8 (N,), of the training or the test part.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    images = read_idx(source / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"{part}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or labels.max() >= len(NAMES):
        raise DataError(f"{source}: images {images.shape} and labels {labels.shape} of {part} do not belong together")
    return images, labels


def write_fashion_mnist(folder: Path, source: Path = SOURCE) -> None:
    """Writes the whole data set, ``folder/train/CLASS/00000.png`` ... and ``folder/test/...``; once.

    Test images are numbered on from the training images.
    """
    if folder.exists():
        return
    train, test = read_fashion("train", source), read_fashion("t10k", source)
    images, labels = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    border = len(train[1])
    splits = {"train": np.arange(border), "test": np.arange(border, len(labels))}
    write_class_folders(folder, images, labels, NAMES, splits)


def write_tuning_set(folder: Path, source: Path = SOURCE, held_out: int = HELD_OUT) -> None:
    """Writes the training images alone, ``held_out`` of each class as ``folder/test``; once.

    The files of the test part are not opened: whatever is chosen with this data set was chosen without them.
    """
    if folder.exists():
        return
    images, labels = read_fashion("train", source)
    write_class_folders(folder, images, labels, NAMES, choose(labels, {"test": held_out}, rest="train"))
