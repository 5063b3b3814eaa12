"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no scheduler state."""

import math

from marquee.training.core.config import OptimizerConfig

ONE_CYCLE_START = 1 / 25
"""Share of the peak that one-cycle starts from (Smith and Topin, 2018; as in torch's OneCycleLR)."""
ONE_CYCLE_RISE = 0.3
"""Share of the steps in which one-cycle rises."""


def learning_rate(config: OptimizerConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of one step.

    Linear warm-up, whose last step has the peak rate; then the configured schedule over the remaining steps.

    Args:
        config: schedule, peak, floor and warm-up.
        step: 0 for the first step of the run.
        steps_per_epoch: steps of an epoch.
        epochs: epochs of the whole run.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    # 1 at the last step.
    progress = min(1.0, (step - warmup + 1) / max(1, steps_per_epoch * epochs - warmup))
    if config.schedule == "cosine":
        return _cosine(config.lr, config.min_lr, progress)
    if progress < ONE_CYCLE_RISE:
        return _cosine(config.lr * ONE_CYCLE_START, config.lr, progress / ONE_CYCLE_RISE)
    return _cosine(config.lr, config.min_lr, (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` (at 0) to ``end`` (at 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
