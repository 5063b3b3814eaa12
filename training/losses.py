"""Losses."""

from torch import nn

from training.config import LossConfig


def create_loss(config: LossConfig) -> nn.Module:
    """Cross-entropy over logits (N, classes) and int64 labels (N,), the mean over the batch."""
    return nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
