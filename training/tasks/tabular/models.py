"""The bodies of the networks: prepared features -> outputs.

A body is called with float (N, features). It returns (N, outputs) or, for an ensemble, (N, members, outputs).
"""

import importlib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from marquee.training.core.errors import TrainingError
from marquee.training.tasks.tabular.config import TableModelConfig


def check_model(config: TableModelConfig) -> None:
    """Raises TrainingError where a package that the model needs is not installed."""
    if config.name == "tabm":
        _package("tabm", "model.name tabm")
    if config.embeddings != "none":
        _package("rtdl_num_embeddings", f"model.embeddings {config.embeddings}")


def create_body(config: TableModelConfig, widths: Sequence[int], outputs: int) -> nn.Module:
    """The body with its initial weights, drawn from torch's global generator.

    Args:
        config: the model.
        widths: number of prepared features of each column, in their order.
        outputs: number of outputs.

    Raises:
        TrainingError: a package is not installed.
    """
    if config.name == "linear":
        return _zero_linear(sum(widths), outputs)
    if config.name == "tabm":
        return Ensemble(config, widths, outputs)
    return Perceptron(config, sum(widths), outputs)


def periodic_embeddings(config: TableModelConfig, columns: int) -> nn.Module:
    """Float32 (N, columns) -> float32 (N, columns, embedding_size)."""
    package = _package("rtdl_num_embeddings", "model.embeddings periodic")
    embeddings: nn.Module = package.PeriodicEmbeddings(
        columns, config.embedding_size, frequency_init_scale=config.embedding_scale, lite=False
    )
    return embeddings


class Perceptron(nn.Module):
    """Fully connected layers with ReLU and dropout, float32."""

    def __init__(self, config: TableModelConfig, features: int, outputs: int) -> None:
        super().__init__()
        widths = [features, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(config.width, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 (N, features) -> float32 (N, outputs)."""
        outputs: torch.Tensor = self.output(self.layers(features))
        return outputs


class Ensemble(nn.Module):
    """TabM (Gorishniy et al., 2024): members with common weights and scales of their own, float32.

    It is put together from the parts of the package: its own class checks the number of rows in Python, which would
    fix it in the exported program (tabm 0.0.3).
    """

    def __init__(self, config: TableModelConfig, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        package = _package("tabm", "model.name tabm")
        self._members = config.members
        self.backbone = package.make_tabm_backbone(
            d_in=sum(widths),
            n_blocks=config.depth,
            d_block=config.width,
            dropout=config.dropout,
            k=config.members,
            start_scaling_init="normal" if config.embeddings != "none" else "random-signs",
            start_scaling_init_chunks=list(widths),  # the features of a column begin with one scale
        )
        self.output = package.LinearEnsemble(config.width, outputs, k=config.members)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 (N, features) -> float32 (N, members, outputs)."""
        outputs: torch.Tensor = self.output(self.backbone(features[:, None].expand(-1, self._members, -1)))
        return outputs


def _zero_linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer in float64 that starts at zero: what least squares finds where columns are redundant."""
    layer = nn.Linear(features, outputs, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _package(name: str, setting: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(
            f'--{setting} needs a package that is not installed: pip install "marquee[tables]"'
        ) from error
