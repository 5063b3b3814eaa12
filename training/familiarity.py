"""How like the training images an image is: the Mahalanobis distance of its features (Lee et al., 2018).

Confidence does not tell: a network is often surest about pictures of nothing that it knows.
"""

import logging

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


class FeatureDistance(nn.Module):
    """Distance to the nearest class mean, in units in which training features spread by about 1.

    Args:
        means: float64 (classes, D), of each class's features.
        covariance: float64 (D, D), within the classes.
    """

    whitening: torch.Tensor
    means: torch.Tensor

    def __init__(self, means: np.ndarray, covariance: np.ndarray) -> None:
        super().__init__()
        # inv(covariance) = W W^T: after W, distances are Euclidean.
        whitening = np.linalg.cholesky(np.linalg.inv(covariance))
        self._register(whitening, means @ whitening)

    @classmethod
    def of(cls, tables: Distance) -> "FeatureDistance":
        """The module of tables that were fitted before."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._register(tables.whitening, tables.means)
        return module

    @property
    def tables(self) -> Distance:
        """What the distance is computed from."""
        return Distance(self.whitening.numpy(), self.means.numpy())

    def _register(self, whitening: np.ndarray, means: np.ndarray) -> None:
        self.register_buffer("whitening", torch.from_numpy(whitening).float())
        self.register_buffer("means", torch.from_numpy(means).float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float (N, D) -> float (N, 1)."""
        white = features.float() @ self.whitening
        squares = white.square().sum(1, keepdim=True) - 2 * white @ self.means.T + self.means.square().sum(1)
        return (squares.amin(1, keepdim=True).clamp(min=0) / white.shape[1]).sqrt()


class WithDistance(nn.Module):
    """uint8 (N, H, W, C) -> float (N, classes + 1): the logits, then the distance.

    Args:
        model: the classifier.
        distance: of its features.
    """

    def __init__(self, model: Classifier, distance: FeatureDistance) -> None:
        super().__init__()
        self.model = model
        self.distance = distance

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits, features = self.model.logits_and_features(pixels)
        return torch.cat([logits, self.distance(features)], dim=1)


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
) -> FeatureDistance | None:
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
    return FeatureDistance(means, covariance + floor * np.eye(len(covariance)))
