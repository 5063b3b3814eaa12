"""How far features lie from those of training, for engines whose graph ends with the features.

The same formula is part of exported programs (see :mod:`marquee.training.familiarity`). Where a graph runs in low
precision it stays outside: a difference of large squares is what low precision is worst at.
"""

from pathlib import Path

import numpy as np

from .errors import BundleError

DISTANCE_FILE = "distance.npz"
"""Last part of the path of the variant's file that holds the tables."""


class Distance:
    """Distance to the nearest class mean, in units in which training features spread by about 1.

    Args:
        whitening: float (D, D), after which distances are Euclidean.
        means: float (classes, D), whitened.
    """

    def __init__(self, whitening: np.ndarray, means: np.ndarray) -> None:
        self.whitening, self.means = whitening.astype(np.float32), means.astype(np.float32)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Float (N, D) -> float32 (N, 1)."""
        white = np.asarray(features, dtype=np.float32) @ self.whitening
        squares = ((white[:, None] - self.means[None]) ** 2).sum(axis=2)
        result: np.ndarray = np.sqrt(squares.min(axis=1, keepdims=True) / white.shape[1])
        return result


def read_distance(path: Path) -> Distance:
    """Reads what :func:`write_distance` wrote.

    Raises:
        BundleError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as tables:
            return Distance(tables["whitening"], tables["means"])
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not a table of distances: {error}") from error


def write_distance(path: Path, distance: Distance) -> None:
    """Writes ``whitening`` and ``means`` as plain arrays, without any pickle."""
    with open(path, "wb") as stream:
        np.savez(stream, whitening=distance.whitening, means=distance.means)
