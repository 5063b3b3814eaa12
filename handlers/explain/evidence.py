"""What a heat map explains: for each label of an image a number, the evidence for it, computed from the logits."""

from collections.abc import Callable
from typing import Any

from ..outputs.classification import ClassificationSpec

Evidence = Callable[[Any], Any]
"""Logits (N, columns), a column for each label first -> (N, labels), arrays or tensors: larger where a label is more
likely."""


def evidence_of(output: ClassificationSpec) -> Evidence:
    """The evidence for the labels of a model: their logits, or the difference of these where one of two is chosen.

    The answer of a model that chooses one of two labels depends on the difference of its logits alone. Often it is made
    of one number, as that of a single logit, whose other label has a constant 0 for a logit, or of the probability of a
    sigmoid, whose logarithm hardly changes while the label is likely: by themselves, such logits explain nothing.
    """
    return _differences if output.kind == "classification" and len(output.labels) == 2 else _as_they_are


def _differences(logits: Any) -> Any:
    return logits[:, [0, 1]] - logits[:, [1, 0]]


def _as_they_are(logits: Any) -> Any:
    return logits
