"""What training on a table minimises, and what the best epoch is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch.nn import functional

from marquee.training.core.errors import OptimizeError
from marquee.training.core.objective import Score, Tensors
from marquee.training.tasks.tabular.config import TableAugmentConfig, TableLossConfig
from marquee.training.tasks.tabular.network import TabularNetwork


class TabularObjective(ABC):
    """See :class:`marquee.training.core.objective.Objective`.

    A batch is the arrays of the rows and their targets; :meth:`prepare` may add the rows to blend them with.

    Args:
        network: whose weights are penalised.
        loss: the loss.
        augment: mixup.
    """

    unit = "rows"
    counted: tuple[str, ...] = ()

    def __init__(self, network: TabularNetwork, loss: TableLossConfig, augment: TableAugmentConfig) -> None:
        self._network, self._loss, self._augment = network, loss, augment
        self._penalised = [weight for weight in network.body.parameters() if weight.ndim > 1]

    def prepare(self, batch: Tensors, step: int) -> Tensors:
        """With mixup each row gets a partner, and a share of its own; the larger share is the row's own."""
        if not self._augment.mixup:
            return batch
        rows = len(batch[0])
        alpha = torch.tensor(self._augment.mixup, dtype=torch.float64)
        shares = torch.distributions.Beta(alpha, alpha).sample((rows,))
        partners = torch.randperm(rows)
        return (*batch, *(values[partners] for values in batch), torch.maximum(shares, 1 - shares))

    def inputs(self, part: Tensors, step: int) -> Tensors:
        """The arrays of the rows, and of their partners with the shares."""
        if not self._is_blend(part):
            return part[:-1]
        half = len(part) // 2
        return (*part[: half - 1], *part[half : 2 * half - 1], part[-1])

    @staticmethod
    def _is_blend(part: Tensors) -> bool:
        """A blend has one tensor more than twice a batch: (a, t) or (a, b, t), so 5 or 7."""
        return len(part) > 3

    def loss(self, outputs: torch.Tensor, inputs: Tensors, part: Tensors) -> torch.Tensor:
        """The mean of the rows' losses, with the penalties."""
        if self._is_blend(part):
            half = len(part) // 2
            own, other, shares = part[half - 1], part[2 * half - 1], part[-1]
            loss = self.blended(outputs, own, other, shares).mean()
        else:
            loss = self.each(outputs, part[-1]).mean()
        if self._loss.l1:
            loss = loss + self._loss.l1 * sum(weight.abs().sum() for weight in self._penalised)
        if self._loss.l2:
            loss = loss + self._loss.l2 * sum(weight.square().sum() for weight in self._penalised)
        return loss

    def blended(
        self, outputs: torch.Tensor, own: torch.Tensor, other: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each row, (N,), whose target is a blend."""
        return shares * self.each(outputs, own) + (1 - shares) * self.each(outputs, other)

    @abstractmethod
    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each row, (N,); of an ensemble, the mean over its members."""

    @abstractmethod
    def validate(self, outputs: torch.Tensor, batch: Tensors) -> dict[str, float]:
        """See :meth:`marquee.training.core.objective.Objective.validate`."""

    @abstractmethod
    def score(self, sums: Mapping[str, float]) -> Score:
        """See :meth:`marquee.training.core.objective.Objective.score`."""

    def count(self, outputs: torch.Tensor, part: Tensors) -> dict[str, float]:
        """Nothing while training: the answers are those of blended and noisy rows."""
        return dict.fromkeys(self.counted, 0.0)

    def after_backward(self, step: int) -> None:  # noqa: B027 - there is nothing to do
        """Nothing."""

    def train_values(self, sums: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """Nothing besides the loss."""
        return {}, ""

    def soft_loss(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """Raises OptimizeError: networks of tables are not distilled."""
        raise OptimizeError("models of tables cannot be distilled")


class RegressionObjective(TabularObjective):
    """Errors of the scaled target."""

    counted = ("squared", "absolute")

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Outputs (N,) or (N, members), targets (N,) in their own unit."""
        return self._errors(outputs, self._network.target(targets))

    def _errors(self, outputs: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
        scaled = scaled.to(outputs.dtype)
        if outputs.ndim == 2:
            scaled = scaled[:, None].expand_as(outputs)
        if self._loss.name == "mae":
            loss = functional.l1_loss(outputs, scaled, reduction="none")
        elif self._loss.name == "huber":
            loss = functional.huber_loss(outputs, scaled, reduction="none", delta=self._loss.huber_delta)
        else:
            loss = functional.mse_loss(outputs, scaled, reduction="none")
        return loss.mean(dim=1) if loss.ndim == 2 else loss

    def blended(
        self, outputs: torch.Tensor, own: torch.Tensor, other: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """The loss for the blend of the scaled targets."""
        scale = self._network.target
        return self._errors(outputs, shares * scale(own) + (1 - shares) * scale(other))

    def validate(self, outputs: torch.Tensor, batch: Tensors) -> dict[str, float]:
        """The loss, and the errors of the answers in the target's own unit."""
        targets = batch[-1]
        errors = self._network.target.inverse(outputs) - targets
        return {
            "loss": float(self.each(outputs, targets).sum()),
            "squared": float(errors.square().sum()),
            "absolute": float(errors.abs().sum()),
        }

    def score(self, sums: Mapping[str, float]) -> Score:
        """The best epoch has the lowest validation loss."""
        loss = sums["loss"] / sums["items"]
        rmse, mae = (sums["squared"] / sums["items"]) ** 0.5, sums["absolute"] / sums["items"]
        return Score(-loss, loss, {"val_rmse": rmse, "val_mae": mae}, f"rmse {rmse:.4g}")


class ClassificationObjective(TabularObjective):
    """Cross-entropy.

    Args:
        network: whose weights are penalised.
        loss: the loss.
        augment: mixup.
        weights: float (labels,), the weight of each class; None: all equal.
    """

    counted = ("right",)

    def __init__(
        self,
        network: TabularNetwork,
        loss: TableLossConfig,
        augment: TableAugmentConfig,
        weights: torch.Tensor | None = None,
    ) -> None:
        super().__init__(network, loss, augment)
        self._weights = weights

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Outputs (N, labels) or (N, members, labels), targets int64 (N,).

        Class weights have a mean of 1 over the training rows, so that a mean over rows is the weighted mean.
        """
        weights = None if self._weights is None else self._weights.to(outputs)
        options = {"weight": weights, "label_smoothing": self._loss.label_smoothing, "reduction": "none"}
        if outputs.ndim == 2:
            return functional.cross_entropy(outputs, targets, **options)  # type: ignore[arg-type]
        members = outputs.shape[1]
        flat = functional.cross_entropy(
            outputs.flatten(0, 1),
            targets.repeat_interleave(members),
            **options,  # type: ignore[arg-type]
        )
        return flat.reshape(-1, members).mean(dim=1)

    def validate(self, outputs: torch.Tensor, batch: Tensors) -> dict[str, float]:
        """The negative log-likelihood, without weights or smoothing, and the right answers."""
        targets = batch[-1]
        return {
            "loss": float(functional.cross_entropy(outputs, targets, reduction="sum")),
            "right": float((outputs.argmax(1) == targets).sum()),
        }

    def score(self, sums: Mapping[str, float]) -> Score:
        """The best epoch has the lowest negative log-likelihood, which few rows tell better than accuracy."""
        loss, accuracy = sums["loss"] / sums["items"], sums["right"] / sums["items"]
        return Score(-loss, loss, {"val_accuracy": accuracy}, f"accuracy {accuracy:.4f}")


def class_weights(targets: torch.Tensor, labels: int) -> torch.Tensor:
    """Float64 (labels,): the inverse of each class's frequency, with a mean of 1 over ``targets``, int64 (N,)."""
    counts = torch.bincount(targets, minlength=labels).double()
    return len(targets) / (counts.clamp(min=1) * (counts > 0).sum())
