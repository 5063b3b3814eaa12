"""The network: normalisation and a timm backbone in one module, so that the exported program takes raw pixels."""

import difflib
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from marquee.handlers.core.bundle import read_spec
from marquee.handlers.inputs.image.spec import image_of
from marquee.handlers.outputs.classification import classification_of
from marquee.training.core.errors import TrainingError
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.config import ImageConfig, ImageLoopConfig, ModelConfig
from marquee.training.tasks.image_classification.hub import locate
from marquee.training.tasks.image_classification.pretrained import find_run, load_state_dict

_HEAD_DEVIATION = 0.01
"""Standard deviation of a classifier's initial weights: its first outputs are nearly the same for all classes."""


def architectures() -> ModuleType:
    """timm, with the project's own architectures registered.

    The import loads all of timm's architectures and, through torchvision, ``torch._dynamo``. It takes half of the total
    import time, and evaluating or serving a bundle does not need it.
    """
    import timm

    import marquee.training.tasks.image_classification.architectures  # noqa: F401 - registers them

    return timm


class Classifier(nn.Module):
    """uint8 pixels (N, H, W, C) -> logits (N, classes).

    Args:
        backbone: takes normalised float (N, C, H, W).
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
    """

    mean: torch.Tensor
    std: torch.Tensor
    compute_dtype = torch.float32
    """Dtype of the images that the backbone receives."""

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8, or in training float in 0..255, (N, H, W, C) -> float (N, classes)."""
        logits: torch.Tensor = self.backbone(self._normalise(pixels))
        return _two_of_one(logits)

    def logits_and_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits as in :meth:`forward`, and the input of the classifier layer: float (N, features)."""
        maps = self.backbone.forward_features(self._normalise(pixels))  # type: ignore[operator]
        logits: torch.Tensor = self.backbone.forward_head(maps)  # type: ignore[operator]
        features: torch.Tensor = self.backbone.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return _two_of_one(logits), features

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.permute(0, 3, 1, 2).float() / 255  # (N, C, H, W), in channels_last memory
        return ((images - self.mean) / self.std).to(self.compute_dtype)

    def set_frozen(self, frozen: bool) -> None:
        """Freezes all but the classifier, batch-norm statistics included; or unfreezes everything."""
        head = self.backbone.get_classifier()  # type: ignore[operator]
        head_parameters = {id(parameter) for parameter in head.parameters()}
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(not frozen or id(parameter) in head_parameters)
        if frozen:
            self.backbone.eval()
            head.train()


def _two_of_one(logits: torch.Tensor) -> torch.Tensor:
    """One logit is the log-odds of the second class: the softmax of (0, z) is the sigmoid of z."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


@dataclass(frozen=True)
class PretrainedInput:
    """The input that pretrained weights were trained with."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    """Crop size divided by the size of the resized short side."""


def check_model(model: ModelConfig) -> None:
    """Raises TrainingError if the architecture or the weights are not available, before any work is done."""
    timm = architectures()
    if not timm.is_model(model.arch):
        similar = difflib.get_close_matches(model.arch, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        raise TrainingError(f"--model.arch {model.arch}: timm has no such architecture{hint}")
    if model.pretrained == "timm":
        locate(model.arch)
    elif model.pretrained != "none":
        load_state_dict(model.pretrained, model.arch)


def check_resizing(model: ModelConfig, loop: ImageLoopConfig) -> None:
    """Raises TrainingError for progressive resizing with an architecture that takes images of one size only."""
    default = architectures().get_pretrained_cfg(model.arch)
    if loop.progressive_resizing < 1 and default is not None and default.fixed_input_size:
        raise TrainingError(
            f"--loop.progressive-resizing {loop.progressive_resizing:g}: {model.arch} takes images of one size only; "
            "leave it at 1, or choose a convolutional network"
        )


@torch.no_grad()
def check_size(backbone: nn.Module, option: str, side: int, channels: int) -> None:
    """Raises TrainingError if a network does not take images of ``side`` pixels, which many report only when called.

    Args:
        backbone: the network, on the CPU; it is not changed.
        option: the command-line option that selects it, for the message.
        side: side of the square images.
        channels: channels of the images.
    """
    was_training = backbone.training
    try:
        backbone.eval()(torch.zeros(1, channels, side, side))
    except Exception as error:
        # Layers raise errors of any type; an assertion often has no message, and then its source line tells more.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if f"{os.sep}torch{os.sep}" not in frame.filename
        ]
        reason = " ".join(str(error).split()) or f"fails at {frames[-1].line}"
        pretrained = getattr(backbone, "pretrained_cfg", None) or {}
        hint = f"; its authors use {pretrained['input_size'][-1]}" if "input_size" in pretrained else ""
        raise TrainingError(f"{option}: does not take images of {side} pixels: {reason[:300]}{hint}") from error
    finally:
        backbone.train(was_training)


def create_backbone(
    model: ModelConfig, image: ImageConfig, classes: int, channels: int, labels: Sequence[str] | None = None
) -> nn.Module:
    """Creates the timm architecture, with the weights that ``model.pretrained`` names.

    Args:
        model: architecture and weights.
        image: size of the input.
        classes: number of outputs.
        channels: channels of the input.
        labels: class names of the outputs. The classifier of another run is kept only if it was trained for the same;
            None: if its shape fits.

    Raises:
        TrainingError: the architecture is unknown or does not take images of that size, or the weights are not
            available or do not fit it.
    """
    check_model(model)
    timm = architectures()
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "drop_rate": model.dropout}
    if model.drop_path:
        options["drop_path_rate"] = model.drop_path
    default = timm.get_pretrained_cfg(model.arch)
    if default is not None and default.fixed_input_size:
        options["img_size"] = image.size
    if model.pretrained == "timm":
        options |= {"pretrained": True, "pretrained_cfg_overlay": locate(model.arch)}
    try:
        backbone: nn.Module = timm.create_model(model.arch, **options)
    except Exception as error:
        # timm and the hub raise anything from RuntimeError to their own HTTP errors.
        raise TrainingError(f"--model.arch {model.arch} --model.pretrained {model.pretrained}: {error}") from error
    check_size(backbone, f"--model.arch {model.arch}", image.size, channels)
    if model.pretrained != "timm" or default is None or default.num_classes != classes:
        _start_small(backbone, classes)
    if model.pretrained not in ("none", "timm"):
        state = load_state_dict(model.pretrained, model.arch)
        _load_weights(backbone, model, state, channels, keep_head=_may_keep_head(model, labels))
    return backbone


def _start_small(backbone: nn.Module, classes: int) -> None:
    """Reinitialises a new classifier whose weights are so large that training would first have to shrink them.

    timm initialises EfficientNet and related architectures with a standard deviation of 1 / sqrt(3 classes), meant for
    a thousand classes: with two, the loss starts several times above ln 2. Weights with less than 1 / sqrt(features)
    are kept.
    """
    heads = backbone.get_classifier()  # type: ignore[operator]
    for head in heads if isinstance(heads, (tuple, list)) else (heads,):
        for layer in head.modules():
            if not isinstance(layer, (nn.Linear, nn.Conv2d)) or layer.weight.shape[0] != classes:
                continue
            if float(layer.weight.detach().square().mean()) > 1 / layer.weight[0].numel():
                nn.init.normal_(layer.weight, std=_HEAD_DEVIATION)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def _may_keep_head(model: ModelConfig, labels: Sequence[str] | None) -> bool:
    """Whether the pretrained classifier can be one for ``labels``; weight files do not name their classes."""
    run = find_run(model.pretrained)
    return run is None or labels is None or classification_of(read_spec(RunFolder(run).bundle)).labels == tuple(labels)


def pretrained_input(model: ModelConfig, backbone: nn.Module, channels: int) -> PretrainedInput:
    """Normalisation and resizing that the weights of ``backbone`` expect, for ``channels`` channels."""
    if run := find_run(model.pretrained):
        image = image_of(read_spec(RunFolder(run).bundle))
        return PretrainedInput(
            mean=_for_channels(image.mean, channels),
            std=_for_channels(image.std, channels),
            interpolation=image.interpolation,
            crop_pct=image.crop / image.resize,
        )
    config: dict[str, Any] = architectures().data.resolve_model_data_config(backbone)
    return PretrainedInput(
        mean=_for_channels(config["mean"], channels),
        std=_for_channels(config["std"], channels),
        interpolation=config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic",
        crop_pct=config["crop_pct"],
    )


def pretrained_crop(model: ModelConfig) -> float | None:
    """The side of the centre crop that the weights expect, as a share of the resized image; None without weights."""
    if model.pretrained == "none":
        return None
    if run := find_run(model.pretrained):
        image = image_of(read_spec(RunFolder(run).bundle))
        return image.crop / image.resize
    default = architectures().get_pretrained_cfg(model.arch)
    return None if default is None else float(default.crop_pct)


def pretrained_channels(model: ModelConfig) -> int | None:
    """Channels that the weights were trained with; None when there are no weights."""
    if model.pretrained == "none":
        return None
    run = find_run(model.pretrained)
    return image_of(read_spec(RunFolder(run).bundle)).channels if run else 3


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (round(sum(values) / len(values), 4),) * channels


def _load_weights(
    backbone: nn.Module, model: ModelConfig, state: dict[str, torch.Tensor], channels: int, keep_head: bool
) -> None:
    """Loads ``state`` into ``backbone``; a head of another size, or that is not to be kept, stays as initialised.

    timm's own loading accepts any file and skips what does not fit, which would silently train from scratch.
    """
    timm = architectures()
    config = timm.get_pretrained_cfg(model.arch)
    heads, stems = (_names(getattr(config, name, None)) for name in ("classifier", "first_conv"))
    initial = backbone.state_dict()
    fitted = {}
    for key, value in state.items():
        module = key.rpartition(".")[0]
        if module in stems and key.endswith(".weight") and key in initial and value.shape[1] != initial[key].shape[1]:
            # Sums or repeats the colour filters; timm expects three input channels.
            value = timm.models.adapt_input_conv(
                channels, value.expand(-1, 3, -1, -1) / 3 if value.shape[1] == 1 else value
            )
        if module not in heads or (keep_head and key in initial and value.shape == initial[key].shape):
            fitted[key] = value
    try:
        missing, unexpected = backbone.load_state_dict(fitted, strict=False)
    except RuntimeError as error:
        raise TrainingError(f"{model.pretrained}: does not fit --model.arch {model.arch}: {error}") from error
    missing = [key for key in missing if key.rpartition(".")[0] not in heads and "num_batches_tracked" not in key]
    if missing or unexpected:
        raise TrainingError(
            f"{model.pretrained}: does not fit --model.arch {model.arch}: {len(missing)} weights missing, "
            f"{len(unexpected)} unknown, such as {(missing + unexpected)[0]}"
        )


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
