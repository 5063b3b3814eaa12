"""Decodes the images of a run before training, if configured."""

import logging
from dataclasses import dataclass

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.context import RunContext
from marquee.training.core.errors import TrainingError
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.augment import crop_source
from marquee.training.tasks.image_classification.data.cache import (
    AUTO_BYTES,
    UNLIMITED,
    ImageCache,
    build_cache,
    decoded_bytes,
)
from marquee.training.tasks.image_classification.data.manifest import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caches:
    """The caches of decoded images; None without a cache."""

    train: ImageCache | None = None
    val: ImageCache | None = None


def build_caches(
    config: ImageRunConfig,
    manifest: Manifest,
    image: ImageSpec,
    context: RunContext,
) -> Caches:
    """Decodes all images once, if configured; the main process does it for all processes."""
    world, progress = context.world, context.progress
    train, val = manifest.split("train"), manifest.split("val")
    # Without random crops an image is prepared as served, and shrinking it first would change its pixels.
    short_side = crop_source(config.augment, image) or UNLIMITED
    size = decoded_bytes(train, image, short_side) + decoded_bytes(val, image, None)
    if config.loop.cache == "none" or (config.loop.cache == "auto" and size > AUTO_BYTES):
        return Caches()
    folder = context.folder.cache
    failure: TrainingError | None = None
    no_room = False
    if world.is_main:
        try:
            build_cache(folder / "train", train, image, short_side, progress)
            build_cache(folder / "val", val, image, None, progress)
        except TrainingError as error:
            failure = error
        except OSError as error:
            if config.loop.cache == "decoded":
                failure = TrainingError(f"{folder}: {error.strerror or error}; free space, or use --loop.cache none")
            else:
                no_room = True
                logger.info(f"{folder}: {error.strerror or error}; images are decoded again every epoch")
    if world.any(failure is not None):
        raise failure or TrainingError("the main process could not decode the images; its message says why")
    if world.any(no_room):
        return Caches()
    return Caches(ImageCache(folder / "train"), ImageCache(folder / "val"))
