"""Hints and warnings about a data set before a run."""

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np

from marquee.handlers.inputs.image.decode import hidden_share
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.statistics import share_interval
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.hub import WITHOUT_NETWORK
from marquee.training.tasks.image_classification.models import pretrained_crop
from marquee.training.tasks.image_classification.network import resize_of

FEW_TO_LEARN_FROM = 3000
"""Number of training images below which pretrained weights are usually better than random ones."""
PHOTOGRAPH = 96
"""Side of the input in pixels from which weights pretrained on photographs are useful."""
FEW_OF_A_CLASS, FEW_TO_MEASURE = 10, 50
EXAMPLE = 0.9
"""An accuracy, for which the interval of few images is given."""
SKEWED = 10
"""How many times as many training images the largest class has as the smallest, from which a hint says so."""
MUCH_HIDDEN = 1 / 3
"""Share of the median image outside of the centre crop above which a warning says so."""


def advise(config: ImageRunConfig, manifest: Manifest) -> list[str]:
    """One line per hint; usually none."""
    lines = (_weights(config, manifest), _smallest(manifest), _skewed(config, manifest), _hidden(config, manifest))
    return [line for line in lines if line]


def smallest_class(manifest: Manifest) -> tuple[str, int]:
    """The class with the fewest images, and how many these are."""
    counts = _counts(manifest.records, manifest)
    return min(sorted(counts.items()), key=lambda item: item[1]) if counts else ("", 0)


def _counts(records: Sequence[Record], manifest: Manifest) -> Counter[str]:
    return Counter(name for record in records for name in manifest.names_of(record))


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
    label, count = smallest_class(manifest)
    if count >= FEW_OF_A_CLASS and images >= FEW_TO_MEASURE:
        return ""
    low, high = share_interval(np.arange(images) < round(EXAMPLE * images))
    return (
        f"warning: very few images: class {label!r}, the smallest, has {count}; accuracy is measured on {images} "
        f"{measured} images, each of which is {100 / images:.2g} points of it, so it is only a rough estimate: the 95 "
        f"% interval of {100 * round(EXAMPLE * images) / images:.0f} % would be {100 * low:.0f} % to {100 * high:.0f} %"
    )


def _skewed(config: ImageRunConfig, manifest: Manifest) -> str:
    """A hint if the classes have very different numbers of training images, and nothing was chosen for that."""
    counts = _counts(manifest.split("train"), manifest)
    ordered = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    if len(ordered) < 2 or ordered[-1][1] < SKEWED * ordered[0][1] or config.loop.balance != "none":
        return ""
    (small, few), (large, many) = ordered[0], ordered[-1]
    return (
        f"hint: class {large!r} has {many:,} training images, {small!r} has {few:,}; accuracy says little of the rare "
        "ones: see balanced accuracy, and try --loop.balance weights and --loop.select balanced"
    )


def _hidden(config: ImageRunConfig, manifest: Manifest) -> str:
    """A warning if much of most images lies outside of what the model sees."""
    image = config.image
    resize = resize_of(image, pretrained_crop(config.model))
    seen = ImageSpec(channels=1, resize=resize, crop=image.size, fit=image.fit)
    sizes = [(record.width, record.height) for record in manifest.records if record.width and record.height]
    if not sizes:
        return ""
    share = statistics.median(hidden_share(*size, seen) for size in sizes)
    if share <= MUCH_HIDDEN + 1e-9:
        return ""
    ways = [] if image.fit != "crop" else ["--image.fit pad or --image.fit squash, which show all of it"]
    ways += [f"--image.resize {image.size}, which crops less"] if resize > image.size else []
    return (
        f"warning: {100 * share:.0f} % of the median image lies outside of the centre crop, where the model does not "
        f"see it; try {', or '.join(ways)}"
    )
