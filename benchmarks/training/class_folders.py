"""Arrays of images -> folders of PNG files, one folder a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from marquee.training.errors import DataError
from marquee.training.files import atomic_folder


def write_class_folders(
    folder: Path, images: np.ndarray, labels: np.ndarray, names: Sequence[str], splits: Mapping[str, np.ndarray]
) -> None:
    """Writes ``folder/SPLIT/NAME/00000.png``; each file has the number of its image.

    All of it appears at once, or nothing; a folder that exists is left alone.

    Args:
        folder: the data set to write.
        images: uint8 (N, height, width).
        labels: int (N,), indices of ``names``.
        names: of the classes; they become folders.
        splits: name of a split -> int (M,), indices of its images.
    """
    if folder.exists():
        return
    with atomic_folder(folder) as staging:
        for split, chosen in splits.items():
            for name in names:
                (staging / split / name).mkdir(parents=True)
            for number in chosen:
                target = staging / split / names[labels[number]] / f"{number:05d}.png"
                Image.fromarray(images[number]).save(target)


def choose(labels: np.ndarray, counts: Mapping[str, int], rest: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    """Disjoint random splits with equally many images of each class.

    Args:
        labels: int (N,).
        counts: name of a split -> its images of each class.
        rest: a split that gets all other images; empty: they are left out.
        seed: equal seeds give equal splits.

    Returns:
        Name of a split -> int (M,), sorted indices of its images.

    Raises:
        DataError: a class has fewer images.
    """
    random = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*counts, *([rest] if rest else []))}
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        if sum(counts.values()) > len(members):
            raise DataError(f"class {label}: {len(members)} images, but {sum(counts.values())} are asked for")
        for name, count in counts.items():
            parts[name].append(members[:count])
            members = members[count:]
        if rest:
            parts[rest].append(members)
    return {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}
