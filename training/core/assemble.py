"""Builds everything that trains from a configuration and a manifest."""

from typing import Any

import torch

from marquee.training.core.checkpoint import CheckpointStore
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_precision
from marquee.training.core.ema import WeightAverage
from marquee.training.core.loop import Trainer
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.optim import create_optimizer
from marquee.training.core.task import Network, task_of


def build_trainer(
    config: RunConfig, manifest: Any, network: Network, context: RunContext, cache: bool = False
) -> Trainer:
    """Builds the configured trainer around a network; it writes no log.

    Args:
        config: the run's configuration.
        manifest: the run's manifest.
        network: the network to train; it is moved to the device.
        context: the run's folder, device and processes.
        cache: whether prepared items may be cached in the run's folder.
    """
    device, world, loop, task = context.device, context.world, config.loop, task_of(config)
    precision = resolve_precision(loop.precision, device)
    task.place(config, network.model, device)
    feed = task.feed(config, manifest, network, context, cache)
    return Trainer(
        config=config,
        model=network.model,
        objective=task.objective(config, manifest, network, loop.epochs * len(feed.sampler), device, precision),
        average=WeightAverage(network.model, loop.ema) if loop.ema else None,
        optimizer=create_optimizer(network.model, config.optimizer, device),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        sampler=feed.sampler,
        train_loader=feed.train,
        val_loader=feed.val,
        device=device,
        precision=precision,
        world=world,
        store=CheckpointStore(context.folder.checkpoints, config.checkpoint.keep),
        log=MetricsLog(None, 0),
        progress=context.progress,
    )
