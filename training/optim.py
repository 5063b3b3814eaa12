"""Optimiser and learning-rate schedule."""

import math

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn

from training.config import OptimizerConfig


def create_optimizer(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW; biases, norms and whatever the architecture exempts get no weight decay."""
    exempt: set[str] = getattr(getattr(model, "backbone", model), "no_weight_decay", set)()
    # The architecture names its parameters without our prefix.
    names = [f"backbone.{name}" for name in exempt] + list(exempt)
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=names)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True if device.type == "cuda" else None
    )


def learning_rate(step: int, total: int, warmup: int, peak: float, floor: float) -> float:
    """Linear warm-up, then a cosine to ``floor``.

    Args:
        step: 0 for the first step.
        total: steps of the whole run.
        warmup: steps of warm-up; the last of them has the peak rate.
        peak: highest rate.
        floor: rate of the last step.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup + 1) / max(1, total - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
