"""How similar an image is to the training images: the Mahalanobis distance of its features (Lee et al., 2018).

Confidence does not show this: a network is often most confident about images unlike any that it was trained on.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from marquee.handlers.outputs.distance import Distance
from marquee.training.core.progress import Progress
from marquee.training.core.sampler import evaluation_loader
from marquee.training.tasks.image_classification.data.loading import EvaluationImages
from marquee.training.tasks.image_classification.data.manifest import Record
from marquee.training.tasks.image_classification.models import Classifier

logger = logging.getLogger(__name__)

LEAST_SPREAD = 1e-12
"""Least variance of features within the classes, as a share of their mean square: below it there is only rounding."""
SAMPLE = 20_000
"""Largest number of training images used: the covariance of more is nearly the same."""


class Featured(Protocol):
    """A network that also returns the input of its classifier layer."""

    def logits_and_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See :meth:`marquee.training.tasks.image_classification.models.Classifier.logits_and_features`."""


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
    """The tables from which a distance is computed.

    Args:
        means: float64 (classes, D), the mean features of each class.
        covariance: float64 (D, D), the covariance within the classes.
    """
    # inv(covariance) = W W^T: after multiplication by W, distances are Euclidean.
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return Distance(whitening, means @ whitening)


def _features(model: Classifier, pixels: torch.Tensor) -> np.ndarray | None:
    """float64 (N, D); None if the architecture has no single vector before its classifier."""
    try:
        features = model.logits_and_features(pixels)[1]
    except (AttributeError, TypeError):
        return None
    return features.double().numpy() if isinstance(features, torch.Tensor) and features.ndim == 2 else None


def sample_of(records: Sequence[Record]) -> Sequence[Record]:
    """At most :data:`SAMPLE` records, evenly spaced."""
    return records[:: -(-len(records) // SAMPLE)]


@torch.inference_mode()
def fit_distance(
    model: Classifier,
    images: EvaluationImages,
    sets: Sequence[str],
    workers: int,
    progress: Progress,
) -> Distance | None:
    """The distance to the features of the training images, as they are served.

    Args:
        model: the trained model, on the CPU, in eval mode.
        images: a sample of the training images (see :func:`sample_of`).
        sets: the set of each image; each set has its own mean of features.
        workers: loader processes.
        progress: where progress is reported.

    Returns:
        None if the architecture does not expose its features, or if they do not differ within any class.
    """
    from sklearn.covariance import ledoit_wolf  # takes a second to import

    features = []
    with progress.task("measuring features", len(images)) as task:
        for pixels, _ in evaluation_loader(images, 64, workers):
            rows = _features(model, pixels)
            if rows is None:
                logger.info("this architecture does not expose its features: unfamiliar images will not be detected")
                return None
            features.append(rows)
            task.advance(count=len(pixels))
    values = np.concatenate(features)
    names, classes = np.unique(sets, return_inverse=True)
    means = np.stack([values[classes == i].mean(axis=0) for i in range(len(names))])
    # Shrunk towards a multiple of the identity, the more the fewer images there are (Ledoit and Wolf, 2004): it can be
    # inverted even with fewer images than features.
    differences = values - means[classes]
    if not np.square(differences).mean() > LEAST_SPREAD * np.square(values).mean():
        logger.warning(
            "the training images of each class are all alike to the network, as copies and flat pictures are: "
            "unfamiliar images will not be detected"
        )
        return None
    covariance, _ = ledoit_wolf(differences, assume_centered=True)
    # Without a floor, features that are constant in training would give infinite distances as soon as they vary.
    floor = 1e-6 * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    return tables_of(means, covariance + floor * np.eye(len(covariance)))
