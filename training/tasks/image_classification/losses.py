"""Losses over logits (N, classes) and targets: class indices int64 (N,) or probabilities (N, classes), as mixup makes.

All return the mean over the batch. With weights, each image counts by that of its class; these have a mean of 1 over
the training images, so that a mean over images is the weighted mean, however many processes and parts share a step.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from marquee.training.tasks.image_classification.config import LossConfig


def create_loss(config: LossConfig, weights: torch.Tensor | None = None) -> nn.Module:
    """The configured loss for images with one label each.

    Args:
        config: which loss.
        weights: float32 (classes,), see :func:`class_weights`; None: all equal.
    """
    if config.name == "bce":
        return BinaryCrossEntropy(config.label_smoothing, weights)
    if config.name == "focal":
        return FocalLoss(config.focal_gamma, config.label_smoothing, weights)
    if config.name == "mse":
        return SquaredError(config.label_smoothing, weights)
    if weights is None:
        return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    return CrossEntropy(config.label_smoothing, weights)


def class_weights(counts: Sequence[int]) -> torch.Tensor:
    """Float32 (classes,): the inverse of each class's number of images, with a mean of 1 over the images."""
    numbers = torch.tensor(counts, dtype=torch.float64)
    return (numbers.sum() / (numbers.clamp(min=1) * (numbers > 0).sum())).float()


def label_weights(counts: Sequence[int], images: int) -> torch.Tensor:
    """Float32 (2, labels): weights of a label's absence and of its presence, which make both count alike.

    Args:
        counts: images that have each label.
        images: all of them.
    """
    present = torch.tensor(counts, dtype=torch.float64)
    both = torch.stack([images - present, present])
    # A label that all images have, or none, has nothing to be balanced with.
    return torch.where((both > 0).all(0), images / (2 * both.clamp(min=1)), torch.ones_like(both)).float()


def one_logit(config: LossConfig, classes: int) -> bool:
    """True when the network needs a single logit: the second class's log-odds."""
    return config.name == "bce" and classes == 2


class _Loss(nn.Module):
    """The mean over images of what a subclass gives each of them.

    Args:
        smoothing: share of the target that is spread over all classes.
        weights: float32 (classes,), of an image by its class; None: all equal.
    """

    def __init__(self, smoothing: float, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self._smoothing = smoothing
        self._weights: torch.Tensor | None
        self.register_buffer("_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        each = self.each(logits, targets)
        if self._weights is None:
            return each.mean()
        each = each.mean(1) if each.ndim == 2 else each
        # A mixed image counts by the shares of its classes.
        of_image = self._weights[targets] if targets.ndim == 1 else targets @ self._weights
        return (each * of_image).mean()

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each image, float32 (N,), or (N, decisions), which count alike."""
        raise NotImplementedError


class CrossEntropy(_Loss):
    """Cross-entropy of the softmax."""

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return functional.cross_entropy(logits, targets, label_smoothing=self._smoothing, reduction="none")


class BinaryCrossEntropy(_Loss):
    """Binary cross-entropy of each class; for two classes, of a single decision on the difference of their logits."""

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        if logits.shape[1] == 2:
            logits, target = logits[:, 1] - logits[:, 0], target[:, 1]
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


class MultiLabelCrossEntropy(nn.Module):
    """Binary cross-entropy of each label on its own; targets are zeros and ones (N, classes), moved towards a half.

    Args:
        smoothing: share of the target that is spread over presence and absence.
        weights: float32 (2, classes), see :func:`label_weights`; None: all equal.
    """

    def __init__(self, smoothing: float, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self._smoothing = smoothing
        self._weights: torch.Tensor | None
        self.register_buffer("_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the class."""
        target = targets * (1 - self._smoothing) + self._smoothing / 2
        weights = None
        if self._weights is not None:
            weights = torch.where(targets > 0.5, self._weights[1], self._weights[0])
        return functional.binary_cross_entropy_with_logits(logits, target, weight=weights)


class FocalLoss(_Loss):
    """Cross-entropy with weights (1 - p) ** gamma: confident right answers count little (Lin et al., 2017, eq. 4).

    Args:
        gamma: 0 gives cross-entropy.
        smoothing: share of the target that is spread over all classes.
        weights: see the base class.
    """

    def __init__(self, gamma: float, smoothing: float, weights: torch.Tensor | None = None) -> None:
        super().__init__(smoothing, weights)
        self._gamma = gamma

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        logs = logits.log_softmax(1)
        return -(target * (1 - logs.exp()) ** self._gamma * logs).sum(1)


class SquaredError(_Loss):
    """Squared distance of the softmax to the target, summed over classes: the Brier score."""

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        return (logits.softmax(1) - target).square().sum(1)


def as_probabilities(targets: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """Class indices (N,) or probabilities (N, classes) -> smoothed float probabilities (N, classes)."""
    target = functional.one_hot(targets, classes).float() if targets.ndim == 1 else targets
    return target * (1 - smoothing) + smoothing / classes
