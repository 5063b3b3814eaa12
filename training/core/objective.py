"""What a run minimises, and how an epoch is judged: the part of a task that the training loop calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Score:
    """The validation result of an epoch."""

    value: float
    """The epoch with the highest value is the best one; between equal values, the lower loss decides."""
    loss: float
    """Mean over the validation items."""
    values: Mapping[str, float]
    """Metrics for the log, by name."""
    text: str
    """The metrics as text, for the console."""


class Objective(Protocol):
    """What a run minimises, and how it is validated. Distillation wraps another objective."""

    counted: tuple[str, ...]
    """Names of the counts that :meth:`count` returns."""
    unit: str
    """The plural noun for items, such as ``images``."""

    def prepare(self, batch: Tensors, step: int) -> Tensors:
        """A batch from the loader, for a whole step -> tensors with one row per item, on the CPU.

        It draws from torch's global generator, which is seeded for each step.
        """

    def inputs(self, part: Tensors, step: int) -> Tensors:
        """Some rows of :meth:`prepare`, on the device -> the arguments of the network."""

    def loss(self, outputs: torch.Tensor, inputs: Tensors, part: Tensors) -> torch.Tensor:
        """The mean loss over the part, float32.

        Args:
            outputs: the outputs of the network, float32.
            inputs: the arguments of the network.
            part: the rows that they were computed from.
        """

    def count(self, outputs: torch.Tensor, part: Tensors) -> dict[str, float]:
        """Counts for these outputs, by the names of ``counted``; they are summed over an epoch."""

    def after_backward(self, step: int) -> None:
        """Called when a step's gradients are complete."""

    def validate(self, outputs: torch.Tensor, batch: Tensors) -> dict[str, float]:
        """Sums over a batch of the validation loader: ``loss``, and the names of ``counted``."""

    def train_values(self, sums: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """An epoch's training metrics besides the loss: by name for the log, and as text for the console.

        Args:
            sums: over the epoch: ``items``, and the names of ``counted``.
        """

    def score(self, sums: Mapping[str, float]) -> Score:
        """The validation result.

        Args:
            sums: results of :meth:`validate`, summed over all batches, and ``items``.
        """

    def soft_loss(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """The distance between the softened outputs of student and teacher, for distillation (Hinton et al., 2015).

        Args:
            student: outputs of the student network, float32.
            teacher: outputs of the teacher network, float32.
            temperature: divisor of both.

        Returns:
            The mean over the batch, times the square of the temperature, so that gradients are as large as at 1.
        """
