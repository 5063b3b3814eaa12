"""Losses over logits (N, classes) and targets: class indices int64 (N,) or probabilities (N, classes), as mixup makes.

All return the mean over the batch. Where an image may have several labels, targets are zeros and ones (N, classes).
"""

import torch
from torch import nn
from torch.nn import functional

from marquee.training.config import LossConfig


def create_loss(config: LossConfig, multi_label: bool = False) -> nn.Module:
    """The configured loss."""
    if multi_label:
        return MultiLabelCrossEntropy(config.label_smoothing)
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
    """Keeps the smoothing.

    Args:
        smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self._smoothing = smoothing


class BinaryCrossEntropy(_Smoothed):
    """A yes or no for each class; for two classes, one yes or no on the difference of their logits."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        wanted = as_probabilities(targets, logits.shape[1], self._smoothing)
        if logits.shape[1] == 2:
            logits, wanted = logits[:, 1] - logits[:, 0], wanted[:, 1]
        return functional.binary_cross_entropy_with_logits(logits, wanted)


class MultiLabelCrossEntropy(_Smoothed):
    """Binary cross-entropy of each label on its own; targets are zeros and ones (N, classes), moved towards a half."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the class."""
        wanted = targets * (1 - self._smoothing) + self._smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, wanted)


class FocalLoss(nn.Module):
    """Cross-entropy whose terms weigh (1 - p) ** gamma: sure and right images count little (Lin et al., 2017, eq. 4).

    Args:
        gamma: 0 gives cross-entropy.
        smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, gamma: float, smoothing: float) -> None:
        super().__init__()
        self._gamma, self._smoothing = gamma, smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        wanted = as_probabilities(targets, logits.shape[1], self._smoothing)
        logs = logits.log_softmax(1)
        return -(wanted * (1 - logs.exp()) ** self._gamma * logs).sum(1).mean()


class SquaredError(_Smoothed):
    """Squared distance of the softmax to the target, summed over classes: the Brier score."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module's docstring."""
        wanted = as_probabilities(targets, logits.shape[1], self._smoothing)
        return (logits.softmax(1) - wanted).square().sum(1).mean()


def count_right(logits: torch.Tensor, truth: torch.Tensor) -> int:
    """Images whose likeliest class is the true one, int64 (N,), or all of whose labels are right, (N, classes)."""
    if truth.ndim == 1:
        return int((logits.argmax(1) == truth).sum())
    return int(((logits > 0) == (truth > 0)).all(1).sum())


def negative_log_likelihood(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Summed over images, in nats; several labels are taken as independent."""
    if truth.ndim == 1:
        return functional.cross_entropy(logits, truth, reduction="sum").item()
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum").item()


def as_probabilities(targets: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """Class indices (N,) or probabilities (N, classes) -> smoothed float probabilities (N, classes)."""
    wanted = functional.one_hot(targets, classes).float() if targets.ndim == 1 else targets
    return wanted * (1 - smoothing) + smoothing / classes
