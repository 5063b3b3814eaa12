"""Architectures for images of 28 to 64 pixels.

Those of timm, made for 224 pixels, reduce such images to almost nothing in their first layers. Importing this
module registers the architectures with timm, which then creates them like its own.
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

_LAYERS = {"first_conv": "stem.0", "classifier": "head"}
"""What is fitted when weights come from a network with other channels or other classes."""
_INPUT = {"input_size": (3, 32, 32), "interpolation": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": _LAYERS | _INPUT for name in ("cnn4_w8", "resnet9_w32", "resnet9_w64")}
)
"""Read by :func:`timm.models.register_model`."""


class ResNet9(nn.Module):
    """Nine layers with two residual pairs, after David Page's "How to train your ResNet" (2018) for CIFAR-10.

    Args:
        width: channels of the first layer; the last convolution has eight times as many.
        num_classes: logits.
        in_chans: channels of the input.
        drop_rate: dropout before the classifier.
        residual: False leaves out the residual pairs: four convolutions and the classifier remain.
    """

    def __init__(
        self,
        width: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.drop_rate = num_classes, 8 * width, drop_rate
        self.pretrained_cfg: dict[str, Any] = {}  # read by timm.data.resolve_model_data_config
        self.stem = _convolution(in_chans, width)
        self.stage1 = _stage(width, residual)
        self.stage2 = _convolution(2 * width, 4 * width, pool=True)
        self.stage3 = _stage(4 * width, residual)
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(8 * width, num_classes)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, in_chans, H, W) -> (N, 8 width, H / 8, W / 8)."""
        features: torch.Tensor = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return features

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, C, H, W) -> logits (N, num_classes); with ``pre_logits`` the pooled features (N, C)."""
        pooled: torch.Tensor = self.drop(features.amax((2, 3)))
        logits: torch.Tensor = pooled if pre_logits else self.head(pooled)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float (N, in_chans, H, W) -> logits (N, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The parameters of each layer, for layer-wise learning rate decay."""
        return {"stem": r"^stem", "blocks": [(r"^stage(\d+)", None)]}


def _stage(inputs: int, residual: bool) -> nn.Sequential:
    convolution = _convolution(inputs, 2 * inputs, pool=True)
    return nn.Sequential(convolution, _Residual(2 * inputs)) if residual else convolution


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self.second(self.first(images))
        return images + residual


def _convolution(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, nn.MaxPool2d(2)) if pool else nn.Sequential(*layers)


@register_model
def cnn4_w8(pretrained: bool = False, **options: Any) -> ResNet9:
    """Four convolutions: 25 thousand parameters, 2.9 million multiplications for a 28 x 28 image."""
    return _create("cnn4_w8", 8, pretrained, options, residual=False)


@register_model
def resnet9_w32(pretrained: bool = False, **options: Any) -> ResNet9:
    """1.65 million parameters, 69 million multiplications for a 28 x 28 image."""
    return _create("resnet9_w32", 32, pretrained, options)


@register_model
def resnet9_w64(pretrained: bool = False, **options: Any) -> ResNet9:
    """6.6 million parameters, 275 million multiplications for a 28 x 28 image."""
    return _create("resnet9_w64", 64, pretrained, options)


def _create(name: str, width: int, pretrained: bool, options: dict[str, Any], residual: bool = True) -> ResNet9:
    if pretrained:
        raise ValueError("it has no pretrained weights")
    # timm passes further options to every model, which this one does not have.
    supported = {key: value for key, value in options.items() if key in ("num_classes", "in_chans", "drop_rate")}
    if options.get("drop_path_rate"):
        raise ValueError("it has no stochastic depth; use --model.drop-path 0")
    network = ResNet9(width, residual=residual, **supported)
    network.pretrained_cfg = default_cfgs[name].default.to_dict()
    return network
