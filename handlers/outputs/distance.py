"""The out-of-distribution score: how far the features of an input lie from those of training (Lee et al., 2018).

The engine gives the features, and the distance is computed here, in float32, for all of them: a difference of large
squares is what low precision is worst at. :mod:`marquee.training.tasks.image_classification.ood` fits the tables.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import BundleError

if TYPE_CHECKING:
    from ..core.spec import VariantSpec

DISTANCE_FILE = "distance.npz"
"""How the path of the variant's file ends that holds the tables."""
_AT_ONCE = 1 << 21
"""Differences between features and means that are computed together; they and their squares take 16 MB."""


class Distance:
    """Distance to the nearest class mean, in units in which training features spread by about 1.

    Args:
        whitening: float (D, D), after which distances are Euclidean.
        means: float (classes, D), whitened.
    """

    def __init__(self, whitening: np.ndarray, means: np.ndarray) -> None:
        self.whitening, self.means = whitening.astype(np.float32), means.astype(np.float32)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Float (N, D) -> float32 (N,)."""
        white = np.asarray(features, dtype=np.float32) @ self.whitening
        rows = max(1, _AT_ONCE // self.means.size)
        parts = [self._nearest(white[start : start + rows]) for start in range(0, len(white), rows)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _nearest(self, white: np.ndarray) -> np.ndarray:
        squares = ((white[:, None] - self.means[None]) ** 2).sum(axis=2)
        nearest: np.ndarray = np.sqrt(squares.min(axis=1) / white.shape[1])
        return nearest


def distance_of(variant: "VariantSpec", folder: Path) -> Distance | None:
    """The tables of a variant of the bundle ``folder``; None where its engine gives no features.

    Raises:
        BundleError: their file is absent or damaged.
    """
    if "features" not in variant.outputs:
        return None
    for name in variant.files:
        if name.endswith(DISTANCE_FILE):
            return read_distance(Path(folder) / name)
    raise BundleError(f"variant {variant.name!r} gives features, but has no {DISTANCE_FILE} to measure them by")


def read_distance(path: Path) -> Distance:
    """Reads what :func:`write_distance` wrote.

    Raises:
        BundleError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as tables:
            if any(entry.file_size > entry.compress_size for entry in tables.zip.infolist()):
                raise ValueError("it is compressed, so it could be much larger than its file")
            return Distance(tables["whitening"], tables["means"])
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not a table of distances: {error}") from error


def write_distance(path: Path, distance: Distance) -> None:
    """Writes ``whitening`` and ``means`` as plain arrays, without any pickle."""
    with open(path, "wb") as stream:
        np.savez(stream, whitening=distance.whitening, means=distance.means)
