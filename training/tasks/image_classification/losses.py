"""Losses over logits (N, classes) and targets: class indices int64 (N,) or probabilities (N, classes), as mixup makes.

All return the mean over the batch.
"""

import torch
from torch import nn
from torch.nn import functional

from marquee.training.tasks.image_classification.config import LossConfig


def create_loss(config: LossConfig) -> nn.Module:
    """The configured loss for images with one label each."""
    if config.name == "bce":
        return BinaryCrossEntropy(config.label_smoothing)
    if config.name == "focal":
        return FocalLoss(config.focal_gamma, config.label_smoothing)
    if config.name == "mse":
        return SquaredError(config.label_smoothing)
    return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)


def one_logit(config: LossConfig, classes: int) -> bool:
    """True when the network needs a single logit: the second class's log-odds."""
    return config.name == "bce" and classes == 2


class _Smoothed(nn.Module):
    """Stores the label smoothing.

    Args:
        smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self._smoothing = smoothing


class BinaryCrossEntropy(_Smoothed):
    """Binary cross-entropy of each class; for two classes, of a single decision on the difference of their logits."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        if logits.shape[1] == 2:
            logits, target = logits[:, 1] - logits[:, 0], target[:, 1]
        return functional.binary_cross_entropy_with_logits(logits, target)


class MultiLabelCrossEntropy(_Smoothed):
    """Binary cross-entropy of each label on its own; targets are zeros and ones (N, classes), moved towards a half."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the class."""
        target = targets * (1 - self._smoothing) + self._smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, target)


class FocalLoss(nn.Module):
    """Cross-entropy with weights (1 - p) ** gamma: confident right answers count little (Lin et al., 2017, eq. 4).

    Args:
        gamma: 0 gives cross-entropy.
        smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, gamma: float, smoothing: float) -> None:
        super().__init__()
        self._gamma, self._smoothing = gamma, smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        logs = logits.log_softmax(1)
        return -(target * (1 - logs.exp()) ** self._gamma * logs).sum(1).mean()


class SquaredError(_Smoothed):
    """Squared distance of the softmax to the target, summed over classes: the Brier score."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        target = as_probabilities(targets, logits.shape[1], self._smoothing)
        return (logits.softmax(1) - target).square().sum(1).mean()


def as_probabilities(targets: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """Class indices (N,) or probabilities (N, classes) -> smoothed float probabilities (N, classes)."""
    target = functional.one_hot(targets, classes).float() if targets.ndim == 1 else targets
    return target * (1 - smoothing) + smoothing / classes
