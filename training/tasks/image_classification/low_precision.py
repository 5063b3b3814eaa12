"""A classifier in half precision."""

import copy

import torch
from torch import nn

from marquee.training.tasks.image_classification.models import Classifier


class LowPrecision(nn.Module):
    """The classifier with its backbone's weights and arithmetic in half precision; normalisation and outputs are fp32.

    Args:
        classifier: the classifier in fp32; it is copied.
        dtype: dtype of the backbone.
    """

    def __init__(self, classifier: Classifier, dtype: torch.dtype) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier)
        self.classifier.backbone.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classifier.compute_dtype = dtype

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, C) -> float32 (N, labels)."""
        logits: torch.Tensor = self.classifier(pixels)
        return logits.float()

    def logits_and_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Classifier.logits_and_features`, in float32."""
        logits, features = self.classifier.logits_and_features(pixels)
        return logits.float(), features.float()
