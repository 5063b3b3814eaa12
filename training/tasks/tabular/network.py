"""The network of a table: preparation, body and target in one module."""

from collections import Counter

import torch
from torch import nn

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, NUMBERS, UNSEEN, TableSpec
from marquee.training.core.seeding import derive_seed
from marquee.training.tasks.tabular.config import TableModelConfig, TableRunConfig
from marquee.training.tasks.tabular.models import create_body, periodic_embeddings
from marquee.training.tasks.tabular.preprocessing import (
    NumberPreparation,
    OneHot,
    Outside,
    TargetTransform,
    fit_numbers,
    one_hot_slots,
)

LIMITS = {torch.float64: 1e150, torch.float32: 1e15}
"""Magnitude to which prepared numbers are limited: an answer that is not finite would fail the rows of a request beside
its own."""


class TabularNetwork(nn.Module):
    """Raw rows -> the body's outputs.

    In training it may get a second set of rows and, for each row, the share of the first in a blend of both (mixup).

    Args:
        config: model and augmentation.
        spec: the columns.
        numbers: the fitted preparation of the numbers; None where there are none.
        target: the transform of a regression's target.
        labels: number of classes; 0 for a regression.
    """

    def __init__(
        self,
        config: TableRunConfig,
        spec: TableSpec,
        numbers: NumberPreparation | None,
        target: TargetTransform,
        labels: int,
    ) -> None:
        super().__init__()
        model = config.model
        self._columns = len(spec.numeric)
        self._arrays = bool(spec.numeric) + bool(spec.categorical)
        self._jitter = config.augment.jitter
        self.dtype = torch.float64 if model.name == "linear" else torch.float32
        self.labels = labels
        self.numbers, self.target = numbers, target
        self.periodic = (
            periodic_embeddings(model, self._columns) if model.embeddings == "periodic" and numbers else None
        )
        self.one_hot: OneHot | None = None
        self.embedding: CategoryEmbedding | None = None
        if spec.categorical:
            if config.prepare.categories == "embedding" and model.name != "linear":
                self.embedding = CategoryEmbedding(spec, model)
            elif slots := one_hot_slots(spec):
                self.one_hot = OneHot(slots)
        self.body = create_body(model, self._widths(spec, model), max(1, labels))

    def _widths(self, spec: TableSpec, model: TableModelConfig) -> list[int]:
        """The number of features of each column, in the order of :meth:`features`."""
        widths = []
        if self.numbers is not None:
            indicators = self.numbers.width - self._columns
            widths += [1 if self.periodic is None else model.embedding_size] * self._columns + [1] * indicators
        if self.one_hot is not None:
            columns = Counter(column for column, _ in one_hot_slots(spec))
            widths += [columns[number] for number in sorted(columns)]
        if self.embedding is not None:
            widths += [model.embedding_size] * len(spec.categorical)
        return widths

    def features(self, numbers: torch.Tensor | None, codes: torch.Tensor | None) -> torch.Tensor:
        """Raw rows -> what the body gets, (N, features) of ``dtype``."""
        parts = []
        if self.numbers is not None and numbers is not None:
            prepared = self.numbers(numbers)
            if self.training and self._jitter:
                noise = torch.randn_like(prepared[:, : self._columns]) * self._jitter
                prepared = torch.cat([prepared[:, : self._columns] + noise, prepared[:, self._columns :]], dim=1)
            limit = LIMITS[self.dtype]
            prepared = self._cast(prepared.clamp(-limit, limit))
            if self.periodic is not None:
                parts.append(self.periodic(prepared[:, : self._columns]).flatten(1))
                prepared = prepared[:, self._columns :]
            parts.append(prepared)
        if codes is not None:
            if self.one_hot is not None:
                parts.append(self._cast(self.one_hot(codes)))
            if self.embedding is not None:
                parts.append(self.embedding(codes))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Raw rows, with or without a second set and shares (N,), -> outputs.

        Returns:
            A regression: scaled targets (N,), in training (N, members) of an ensemble. Classes: logits (N, labels), in
            training (N, members, labels) of an ensemble.
        """
        features = self.features(*self.by_kind(arrays[: self._arrays]))
        if len(arrays) > self._arrays:
            others = self.features(*self.by_kind(arrays[self._arrays : -1]))
            shares = arrays[-1][:, None].to(self.dtype)
            features = shares * features + (1 - shares) * others
        outputs = self.body(features)
        return outputs if self.training and outputs.ndim == 3 and self.labels else self.combine(outputs)

    def _cast(self, prepared: torch.Tensor) -> torch.Tensor:
        """Float64 -> ``dtype``; a cast that changes nothing would still be an operation of the exported program."""
        return prepared if self.dtype == torch.float64 else prepared.to(self.dtype)

    def combine(self, outputs: torch.Tensor) -> torch.Tensor:
        """The body's outputs -> one answer a row; of an ensemble that trains, one for each member."""
        if self.labels == 0:
            values = outputs.squeeze(-1)
            return values if self.training or values.ndim == 1 else values.mean(dim=1)
        if outputs.ndim == 3:
            return torch.logsumexp(outputs.log_softmax(dim=-1), dim=1)  # the mean of probabilities, up to a constant
        return outputs

    def by_kind(self, arrays: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(numbers, codes) from the arrays that there are."""
        if len(arrays) == 2:
            return arrays[0], arrays[1]
        return (arrays[0], None) if self._columns else (None, arrays[0])


class CategoryEmbedding(nn.Module):
    """A learned vector for each category of each column, one for missing values and one for unseen categories."""

    offsets: torch.Tensor

    def __init__(self, spec: TableSpec, model: TableModelConfig) -> None:
        super().__init__()
        sizes = [FIRST_CATEGORY + len(column.categories) for column in spec.categorical]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self.register_buffer("offsets", torch.tensor(starts))
        self.table = nn.Embedding(sum(sizes), model.embedding_size)
        # Training never looks it up: it stays zero, as the one-hot columns of an unseen category are.
        with torch.no_grad():
            self.table.weight[self.offsets + UNSEEN] = 0
        self.width = len(sizes) * model.embedding_size

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """int64 (N, columns) -> float32 (N, columns * embedding_size)."""
        vectors: torch.Tensor = self.table(codes + self.offsets)
        return vectors.flatten(1)


class Served(nn.Module):
    """What is exported: raw rows -> the value (N,) float64 or the logits (N, labels), and ``outside``."""

    def __init__(self, network: TabularNetwork, spec: TableSpec) -> None:
        super().__init__()
        self.network, self.outside = network, Outside(spec)

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class. Named arguments, as for every program that is exported: ``*args`` would nest its inputs."""
        arrays = (first,) if second is None else (first, second)
        outputs = self.network(*arrays)
        if not self.network.labels:
            outputs = self.network.target.inverse(outputs)
        return outputs, self.outside(*self.network.by_kind(arrays))


def build_network(
    config: TableRunConfig, spec: TableSpec, train: Arrays, target: TargetTransform, labels: int
) -> TabularNetwork:
    """The network, prepared for the training rows, with initial weights from the run's seed.

    Args:
        config: the run's configuration.
        spec: the columns.
        train: the training rows.
        target: the transform of the target.
        labels: number of classes; 0 for a regression.
    """
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    numbers = fit_numbers(train[NUMBERS], spec, config.prepare) if NUMBERS in train else None
    return TabularNetwork(config, spec, numbers, target, labels)


def tensors(arrays: Arrays) -> tuple[torch.Tensor, ...]:
    """The arrays as tensors, in the order of an engine's inputs."""
    return tuple(torch.from_numpy(arrays[name]) for name in (NUMBERS, CODES) if name in arrays)
