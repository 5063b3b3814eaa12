"""What a careful colleague would say of a data set before a run on it."""

from collections import Counter

from marquee.training.config import RunConfig
from marquee.training.data.manifest import Manifest, names_of
from marquee.training.hub import WITHOUT_NETWORK

FEW_TO_LEARN_FROM = 3000
"""Training images below which random weights are seldom the best to start from."""
PHOTOGRAPH = 96
"""Pixels of the input's side from which weights that know photographs are of use."""
FEW_OF_A_CLASS, FEW_TO_MEASURE = 10, 20


def advise(config: RunConfig, manifest: Manifest) -> list[str]:
    """One line each; mostly none."""
    return [line for line in (_weights(config, manifest), _smallest(manifest)) if line]


def _weights(config: RunConfig, manifest: Manifest) -> str:
    images = len(manifest.split("train"))
    if config.model.pretrained != "none" or config.image.size < PHOTOGRAPH or images >= FEW_TO_LEARN_FROM:
        return ""
    return (
        f"hint: {images} training images are few for random weights; pretrained ones would help: --config finetune, "
        f"which downloads them, or {WITHOUT_NETWORK}"
    )


def _smallest(manifest: Manifest) -> str:
    """Counts the split that accuracy will be read from, and the class that has the fewest images."""
    measured = "test" if manifest.split("test") else "val"
    images = len(manifest.split(measured))
    counts = Counter(name for record in manifest.records for name in names_of(record, manifest.multi_label))
    label, count = min(sorted(counts.items()), key=lambda item: item[1])
    if count >= FEW_OF_A_CLASS and images >= FEW_TO_MEASURE:
        return ""
    return (
        f"warning: very few images: class {label!r}, the smallest, has {count}; accuracy is measured on {images} "
        f"{measured} images, each of which is {100 / images:.2g} points of it, so take it for a rough guess"
    )
