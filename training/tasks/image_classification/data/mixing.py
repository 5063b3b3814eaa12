"""Mixup and CutMix: a step's images and labels are mixed with each other."""

import torch

from marquee.training.tasks.image_classification.config import AugmentConfig


class Mixing:
    """Mixes one batch; it draws from torch's global random state.

    Args:
        config: alphas and probability.
        classes: number of classes.
    """

    def __init__(self, config: AugmentConfig, classes: int) -> None:
        from torchvision.transforms import v2  # takes seconds to import, and only training needs it

        self._probability = config.mix_probability
        self._kinds: list[torch.nn.Module] = []
        if config.mixup:
            self._kinds.append(v2.MixUp(alpha=config.mixup, num_classes=classes))
        if config.cutmix:
            self._kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=classes))

    @property
    def enabled(self) -> bool:
        """Whether any step can be mixed."""
        return bool(self._kinds) and self._probability > 0

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (N, H, W, C), int64 (N,) -> float 0..255 (N, H, W, C), float (N, classes); or both unchanged."""
        if not self.enabled or len(labels) < 2 or float(torch.rand(())) >= self._probability:
            return pixels, labels
        kind = self._kinds[int(torch.randint(len(self._kinds), ()))]
        # Blending needs floats, and torchvision expects channels first.
        mixed, targets = kind(pixels.permute(0, 3, 1, 2).float(), labels)
        return mixed.permute(0, 2, 3, 1), targets
