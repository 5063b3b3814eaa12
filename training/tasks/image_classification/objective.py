"""The training objectives for images: a loss over logits, with optional mixing and progressive resizing."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from marquee.training.core.objective import Score, Tensors
from marquee.training.tasks.image_classification.data.mixing import Mixing
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing
from marquee.training.workarounds.unread_taps import UnreadTaps


class ImageObjective:
    """See :class:`marquee.training.core.objective.Objective`; images have one label each.

    Args:
        loss: logits float32 (N, classes), targets -> their mean loss.
        mixing: mixes the images of a step.
        resizing: shrinks the images of early steps.
        unread: workaround for half precision on a CPU.
        balanced: number of classes where the best epoch is the one with the best balanced accuracy; 0: accuracy.
    """

    counted: tuple[str, ...] = ("correct",)
    unit = "images"

    def __init__(
        self,
        loss: nn.Module,
        mixing: Mixing,
        resizing: ProgressiveResizing,
        unread: UnreadTaps | None = None,
        balanced: int = 0,
    ) -> None:
        self._loss, self._mixing, self._resizing, self._unread = loss, mixing, resizing, unread
        self._sides = self.sides(balanced)
        counts = [(f"right_{number}", f"of_{number}") for number in range(self._sides)]
        self.counted = ("correct", *(name for pair in counts for name in pair))

    def prepare(self, batch: Tensors, step: int) -> Tensors:
        """uint8 (N, H, W, C) and labels -> pixels, targets and labels; pixels and targets may be mixed."""
        pixels, labels = batch
        return (*self._mixing(pixels, labels), labels)

    def inputs(self, part: Tensors, step: int) -> Tensors:
        """Pixels, resized to the image size of the step."""
        return (self._resizing(part[0], step),)

    def loss(self, outputs: torch.Tensor, inputs: Tensors, part: Tensors) -> torch.Tensor:
        """See :class:`marquee.training.core.objective.Objective`."""
        value: torch.Tensor = self._loss(outputs, part[1])
        return value

    def count(self, outputs: torch.Tensor, part: Tensors) -> dict[str, float]:
        """Right answers, according to the labels before mixing."""
        return {"correct": self.right(outputs, part[2])}

    def after_backward(self, step: int) -> None:
        """See :mod:`marquee.training.workarounds.unread_taps`."""
        if self._unread is not None:
            self._unread.clear(self._resizing.side(step))

    def validate(self, outputs: torch.Tensor, batch: Tensors) -> dict[str, float]:
        """Negative log-likelihood and right answers."""
        _, labels = batch
        values = {"loss": self.likelihood(outputs, labels), "correct": float(self.right(outputs, labels))}
        if self._sides:
            right, of = self.recalled(outputs, labels)
            for number, (hits, images) in enumerate(zip(right.tolist(), of.tolist(), strict=True)):
                values |= {f"right_{number}": hits, f"of_{number}": images}
        return values

    def train_values(self, sums: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """Accuracy; none with mixing, because mixed images have no single right answer."""
        if self._mixing.enabled:
            return {}, ""
        accuracy = sums["correct"] / sums["items"]
        return {"train_accuracy": accuracy}, f"accuracy {accuracy:.4f}"

    def score(self, sums: Mapping[str, float]) -> Score:
        """The accuracy is the score, or the balanced accuracy, the mean recall of what occurs."""
        accuracy, loss = sums["correct"] / sums["items"], sums["loss"] / sums["items"]
        values, text = {"val_accuracy": accuracy}, f"accuracy {accuracy:.4f}"
        if not self._sides:
            return Score(accuracy, loss, values, text)
        pairs = [(sums[f"right_{number}"], sums[f"of_{number}"]) for number in range(self._sides)]
        recalls = [hits / images for hits, images in pairs if images]
        balanced = sum(recalls) / len(recalls)
        values = {**values, "val_balanced_accuracy": balanced}
        return Score(balanced, loss, values, f"{text} balanced {balanced:.4f}")

    def sides(self, classes: int) -> int:
        """How many recalls make up the balanced accuracy of so many classes."""
        return classes

    @staticmethod
    def constant_recalls(classes: int) -> int:
        """The inverse of the balanced accuracy of a constant answer: how many recalls there are for each that is 1."""
        return classes

    def recalled(self, logits: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Right answers of each side, and images of it."""
        right = truth[logits.argmax(1) == truth]
        return right.bincount(minlength=self._sides), truth.bincount(minlength=self._sides)

    def right(self, logits: torch.Tensor, truth: torch.Tensor) -> int:
        """Number of images whose most probable class is the true one; truth: int64 (N,)."""
        return int((logits.argmax(1) == truth).sum())

    def likelihood(self, logits: torch.Tensor, truth: torch.Tensor) -> float:
        """Negative log-likelihood, summed over images, in nats."""
        return functional.cross_entropy(logits, truth, reduction="sum").item()

    def soft_loss(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """The Kullback-Leibler divergence of the student's probabilities from the teacher's."""
        teacher_logs = (teacher / temperature).log_softmax(1)
        student_logs = (student / temperature).log_softmax(1)
        return functional.kl_div(student_logs, teacher_logs, reduction="batchmean", log_target=True) * temperature**2


class MultiLabelObjective(ImageObjective):
    """Images may have several labels, which are treated as independent."""

    def right(self, logits: torch.Tensor, truth: torch.Tensor) -> int:
        """Number of images whose labels are all right; truth: zeros and ones (N, classes)."""
        return int(((logits > 0) == (truth > 0)).all(1).sum())

    def sides(self, classes: int) -> int:
        """Of each label, the images that have it, and those that do not."""
        return 2 * classes

    @staticmethod
    def constant_recalls(classes: int) -> int:
        """See the base class: of each label, either side is recalled."""
        return 2

    def recalled(self, logits: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class."""
        present, right = truth > 0, (logits > 0) == (truth > 0)
        return (
            torch.cat([(right & present).sum(0), (right & ~present).sum(0)]),
            torch.cat([present.sum(0), (~present).sum(0)]),
        )

    def likelihood(self, logits: torch.Tensor, truth: torch.Tensor) -> float:
        """Negative log-likelihood, summed over images and labels, in nats."""
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum").item()

    def soft_loss(self, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """Binary cross-entropy of each label with the teacher's probability."""
        student, teacher = student / temperature, teacher / temperature
        return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid()) * temperature**2
