"""Replaces the settings that are left to the data: optimiser, learning rate, batch size, epochs and when to stop."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.inputs.table.spec import TableSpec
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.network import build_network, tensors
from marquee.training.tasks.tabular.preprocessing import TargetTransform

logger = logging.getLogger(__name__)

PASSES = 100
"""Passes in an epoch of a linear regression on full batches: a checkpoint after each would cost more than the pass."""
MOST_EPOCHS = 1000
TOLERANCE = 1e-9
"""Norm of the gradient at which a linear regression on scaled columns has converged: answers are then within about
1e-8 of the closed form's, in units of the target's deviation."""

OPEN_OPTIMIZER: dict[str, Any] = {
    "name": "auto",
    "lr": 0.0,
    "momentum": -1.0,
    "weight_decay": -1.0,
    "clip_norm": -1.0,
    "schedule": "auto",
}
"""Setting of the optimiser -> the value that leaves it to the data."""
OPEN_LOOP: dict[str, Any] = {
    "epochs": 0,
    "passes": 0,
    "batch_size": 0,
    "patience": -1,
    "gradient_tolerance": -1.0,
    "select": "auto",
    "precision": "auto",
}
"""Setting of the loop -> the value that leaves it to the data."""


def resolve(config: TableRunConfig, spec: TableSpec, train: Arrays) -> TableRunConfig:
    """The configuration with values in place of those that follow from the data.

    Args:
        config: of the run.
        spec: the columns.
        train: the training rows.
    """
    if not left_open(config):
        return config
    rows = len(next(iter(train.values())))
    if is_least_squares(config, rows):
        return _least_squares(config, curvature(config, spec, train))
    linear = config.model.name == "linear"
    return _filled(
        config,
        optimizer={
            "name": "adam" if linear else "adamw",
            "lr": 0.01 if linear else 1e-3,
            "momentum": 0.9,
            "weight_decay": 0.0 if linear else 1e-4,
            "clip_norm": 0.0 if linear else 1.0,
            "schedule": "cosine",
        },
        loop={
            "epochs": 200,
            "passes": 1,
            "batch_size": min(rows, 512, max(32, 2 ** round(math.log2(max(1, rows / 64))))),
            "patience": 25,
            "gradient_tolerance": 0.0,
            "select": "validation",
            "precision": "fp64" if linear else "fp32",
        },
    )


def left_open(config: TableRunConfig) -> bool:
    """Whether any setting is left to the data."""
    return any(
        getattr(part, name) == value
        for part, names in ((config.optimizer, OPEN_OPTIMIZER), (config.loop, OPEN_LOOP))
        for name, value in names.items()
    )


def is_least_squares(config: TableRunConfig, rows: int) -> bool:
    """Whether a run minimises a squared error that is quadratic in the weights, on full batches."""
    loop = config.loop
    return (
        config.task == "tabular-regression"
        and config.model.name == "linear"
        and config.loss.name in ("auto", "mse")
        and not (config.loss.l1 or config.augment.mixup or config.augment.jitter)
        and config.optimizer.name in ("auto", "sgd")
        and (loop.batch_size <= 0 or loop.batch_size >= rows)
    )


@dataclass(frozen=True)
class Curvature:
    """Of the mean squared error as a function of weights and intercept."""

    largest: float
    smallest: float
    """Of the directions in which there is any: redundant columns have none, and gradient descent from zero ignores
    them."""

    @property
    def rate(self) -> float:
        """The largest learning rate at which Nesterov's method surely converges (Nesterov, 2004, section 2.2)."""
        return 1 / self.largest

    def momentum(self, rate: float) -> float:
        """The momentum at which it converges fastest; none for a rate that is too large for momentum."""
        if rate > self.rate:
            return 0.0
        root = math.sqrt(rate * self.smallest)
        return min(0.99999, (1 - root) / (1 + root))

    def steps(self, rate: float, momentum: float) -> float:
        """Steps until the error of the weights has fallen to a trillionth; infinite where it grows."""
        factor = max(_shrinking(rate * value, momentum) for value in (self.smallest, self.largest))
        return math.inf if factor >= 1 else math.ceil(math.log(1e12) / -math.log(max(factor, 1e-12)))


def _shrinking(share: float, momentum: float) -> float:
    """By what factor a step of Nesterov's method shrinks the error in one direction, in the long run.

    The errors of successive steps follow e'' = (1 + momentum) (1 - share) e' - momentum (1 - share) e.

    Args:
        share: curvature in that direction, times the learning rate.
        momentum: of the method.
    """
    half, product = (1 + momentum) * (1 - share) / 2, momentum * (1 - share)
    return math.sqrt(product) if half**2 < product else abs(half) + math.sqrt(half**2 - product)


def curvature(config: TableRunConfig, spec: TableSpec, train: Arrays) -> Curvature:
    """The extreme eigenvalues of the loss's second derivative."""
    network = build_network(config, spec, train, TargetTransform(), 0).eval()
    with torch.no_grad():
        features = network.features(*network.by_kind(tensors(train))).numpy()
    design = np.column_stack([features, np.ones(len(features))])
    values = 2 * np.linalg.eigvalsh(design.T @ design / len(design))
    # The intercept is not penalised; with it the values are bounded from above.
    values += 2 * config.loss.l2 + max(0.0, config.optimizer.weight_decay)
    largest = float(values[-1])
    return Curvature(largest, float(values[values > 1e-12 * largest][0]))


def _least_squares(config: TableRunConfig, curve: Curvature) -> TableRunConfig:
    rate = config.optimizer.lr or curve.rate
    momentum = curve.momentum(rate) if config.optimizer.momentum < 0 else config.optimizer.momentum
    passes = config.loop.passes or (1 if config.loop.epochs else PASSES)
    steps = 2 * curve.steps(rate, momentum)
    most = MOST_EPOCHS * passes
    if steps > most and not config.loop.epochs:
        logger.info(
            f"{most} steps will not reach the minimum of the loss, whose curvature is {curve.smallest:.1g} to "
            f"{curve.largest:.1g}; --loss.l2, a learning rate up to {curve.rate:.1g} or more momentum brings it nearer"
        )
    return _filled(
        config,
        optimizer={
            "name": "sgd",
            "lr": rate,
            "momentum": momentum,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "schedule": "constant",
        },
        loop={
            "epochs": max(2, math.ceil(min(steps, most) / passes)),
            "passes": passes,
            "batch_size": -1,
            "patience": 0,
            "gradient_tolerance": TOLERANCE,
            # Patience counts epochs since the best; the last epoch would always be that.
            "select": "validation" if config.loop.patience > 0 else "last",
            "precision": "fp64",
        },
    )


def _filled(config: TableRunConfig, optimizer: Mapping[str, Any], loop: Mapping[str, Any]) -> TableRunConfig:
    """The configuration with these values for the settings that are left to the data."""
    rate = config.optimizer.lr or optimizer["lr"]
    rates: dict[str, Any] = {"min_lr": min(config.optimizer.min_lr, rate)}
    return replace(
        config,
        optimizer=replace(config.optimizer, **rates, **_open(config.optimizer, OPEN_OPTIMIZER, optimizer)),
        loop=replace(config.loop, **_open(config.loop, OPEN_LOOP, loop)),
    )


def _open(part: Any, marks: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for the settings of a part that have the value of ``marks``."""
    return {name: values[name] for name, mark in marks.items() if getattr(part, name) == mark}
