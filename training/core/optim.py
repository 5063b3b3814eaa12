"""The optimiser and its parameter groups."""

from typing import Any

import torch
from torch import nn

from marquee.training.core.config import OptimizerConfig
from marquee.training.core.errors import TrainingError

_FUSED = ("adam", "adamw", "sgd")
"""torch's own optimisers that can update a tensor in one pass, on CPUs and NVIDIA GPUs."""


def check_optimizer(config: OptimizerConfig) -> None:
    """Raises TrainingError for a name that timm.optim does not have, before any work is done."""
    if config.is_open:
        return
    from timm.optim import get_optimizer_info, list_optimizers  # type: ignore[attr-defined]  # takes seconds to import

    # Second-order optimisers need a graph of the gradients, which the loop does not create.
    if config.name not in list_optimizers() or get_optimizer_info(config.name).second_order:
        raise TrainingError(
            f"--optimizer.name {config.name}: not an optimiser that can be used here; "
            'python -c "import timm.optim; print(timm.optim.list_optimizers())" lists them'
        )


def create_optimizer(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """The configured optimiser over all parameters of ``model``.

    Raises:
        TrainingError: the name is unknown, or its library is not installed.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info  # type: ignore[attr-defined]

    check_optimizer(config)
    info = get_optimizer_info(config.name)
    options: dict[str, Any] = {}
    # timm's sgd has Nesterov momentum, which torch refuses to be 0; its "momentum" is plain gradient descent then.
    name = "momentum" if config.name == "sgd" and config.momentum == 0 else config.name
    if info.has_betas and info.num_betas == 2:
        options["betas"] = (config.beta1, config.beta2)
    if config.name in _FUSED and device.type in ("cpu", "cuda"):
        options["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            parameter_groups(model, config),
            opt=name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **options,
        )
    except Exception as error:
        # Missing libraries raise assertions, import errors and type errors alike.
        raise TrainingError(f"--optimizer.name {config.name}: cannot be used here: {error!r}") from error
    return optimizer


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups with ``weight_decay`` and, with layer decay, ``lr_scale`` (1 for the classifier, less for lower layers).

    Biases, norms and whatever the architecture exempts get no weight decay.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # type: ignore[attr-defined]

    backbone = getattr(model, "backbone", model)
    exempt: set[str] = getattr(backbone, "no_weight_decay", set)()
    if config.layer_decay < 1:
        # timm finds the layers by the backbone's parameter names; the module around it has no parameters of its own.
        layers: list[dict[str, Any]] = param_groups_layer_decay(
            backbone, config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
        )
        return layers
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        backbone, config.weight_decay, no_weight_decay_list=list(exempt)
    )
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group ``rate`` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
