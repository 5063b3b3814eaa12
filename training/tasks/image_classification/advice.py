"""Hints and warnings about a data set before a run."""

from collections import Counter

from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest
from marquee.training.tasks.image_classification.hub import WITHOUT_NETWORK

FEW_TO_LEARN_FROM = 3000
"""Number of training images below which pretrained weights are usually better than random ones."""
PHOTOGRAPH = 96
"""Side of the input in pixels from which weights pretrained on photographs are useful."""
FEW_OF_A_CLASS, FEW_TO_MEASURE = 10, 20


def advise(config: ImageRunConfig, manifest: Manifest) -> list[str]:
    """One line per hint; usually none."""
    return [line for line in (_weights(config, manifest), _smallest(manifest)) if line]


def _weights(config: ImageRunConfig, manifest: Manifest) -> str:
    images = len(manifest.split("train"))
    if config.model.pretrained != "none" or config.image.size < PHOTOGRAPH or images >= FEW_TO_LEARN_FROM:
        return ""
    return (
        f"hint: {images} training images are few for random weights; pretrained ones would help: --config finetune, "
        f"which downloads them, or {WITHOUT_NETWORK}"
    )


def _smallest(manifest: Manifest) -> str:
    """A warning if the split that accuracy is measured on, or the smallest class, has few images."""
    measured = "test" if manifest.split("test") else "val"
    images = len(manifest.split(measured))
    counts = Counter(name for record in manifest.records for name in manifest.names_of(record))
    label, count = min(sorted(counts.items()), key=lambda item: item[1])
    if count >= FEW_OF_A_CLASS and images >= FEW_TO_MEASURE:
        return ""
    return (
        f"warning: very few images: class {label!r}, the smallest, has {count}; accuracy is measured on {images} "
        f"{measured} images, each of which is {100 / images:.2g} points of it, so it is only a rough estimate"
    )
