"""How like the training images an image is: the Mahalanobis distance of its features (Lee et al., 2018).

Confidence does not tell: a network is often surest about pictures of nothing that it knows.
"""

import logging
from typing import Protocol

import numpy as np
import torch
from torch import nn

from marquee.handlers.distance import Distance
from marquee.handlers.spec import ImageSpec
from marquee.training.data.loading import EvaluationImages, evaluation_loader
from marquee.training.data.manifest import Manifest
from marquee.training.models import Classifier
from marquee.training.progress import Progress

logger = logging.getLogger(__name__)

SAMPLE = 20_000
"""Training images that are looked at: the covariance of more is the same."""


class Featured(Protocol):
    """A network that also gives what its classifier layer sees."""

    def logits_and_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`marquee.training.models.Classifier.logits_and_features`."""


class LogitsAndFeatures(nn.Module):
    """uint8 (N, H, W, C) -> logits (N, labels) and features (N, D).

    Args:
        classifier: the network.
    """

    def __init__(self, classifier: Featured) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        return self.classifier.logits_and_features(pixels)


def tables_of(means: np.ndarray, covariance: np.ndarray) -> Distance:
    """What a distance is computed from.

    Args:
        means: float64 (classes, D), of each class's features.
        covariance: float64 (D, D), within the classes.
    """
    # inv(covariance) = W W^T: after W, distances are Euclidean.
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return Distance(whitening, means @ whitening)


def _features(model: Classifier, pixels: torch.Tensor) -> np.ndarray | None:
    """float64 (N, D); None where the architecture has no single vector before its classifier."""
    try:
        features = model.logits_and_features(pixels)[1]
    except (AttributeError, TypeError):
        return None
    return features.double().numpy() if isinstance(features, torch.Tensor) and features.ndim == 2 else None


@torch.inference_mode()
def fit_distance(
    model: Classifier,
    manifest: Manifest,
    image: ImageSpec,
    workers: int,
    progress: Progress,
) -> Distance | None:
    """The distance to the features of the training images, as they are served.

    Args:
        model: trained, on the CPU, in eval mode.
        manifest: an even sample of its training images is used.
        image: the served preprocessing.
        workers: loader processes.
        progress: told about it.

    Returns:
        None where the architecture does not give its features.
    """
    from sklearn.covariance import ledoit_wolf  # takes a second to import

    records = manifest.split("train")
    chosen = records[:: -(-len(records) // SAMPLE)]
    images = EvaluationImages(chosen, manifest.labels, image, multi_label=manifest.multi_label)
    features = []
    with progress.task("learning what is familiar", len(chosen)) as task:
        for pixels, _ in evaluation_loader(images, 64, workers):
            found = _features(model, pixels)
            if found is None:
                logger.info("this architecture does not give its features: unfamiliar images will not be noticed")
                return None
            features.append(found)
            task.advance(count=len(pixels))
    values = np.concatenate(features)
    # Images with the same labels are a class; with many labels there may be many such sets, most of them rare: one
    # centre then stands for all.
    sets = [record.label if not manifest.multi_label else "" for record in chosen]
    names, classes = np.unique(sets, return_inverse=True)
    means = np.stack([values[classes == i].mean(axis=0) for i in range(len(names))])
    # Shrunk towards a sphere as far as the number of images asks for (Ledoit and Wolf, 2004): it can be inverted even
    # where there are fewer images than features.
    covariance, _ = ledoit_wolf(values - means[classes], assume_centered=True)
    # Features that never vary would be infinitely far away as soon as they do.
    floor = 1e-6 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    return tables_of(means, covariance + floor * np.eye(len(covariance)))
