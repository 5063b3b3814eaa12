"""Labels as tensors of the Open Inference Protocol."""

import math
from collections.abc import Sequence
from typing import Any

from ..core.oip.metadata import VARIABLE, OutputTensor


def label_tensors(
    labels: Sequence[str], *, may_be_several: bool, has_distance: bool, has_outside: bool
) -> list[OutputTensor]:
    """The tensors of an answer that gives labels.

    Args:
        labels: in their order.
        may_be_several: whether each label is a decision of its own.
        has_distance: whether the model measures the distance.
        has_outside: whether it says in which columns an item lies outside of what training saw.
    """
    of_each = (VARIABLE, len(labels))
    tensors = [
        OutputTensor(name="label", datatype="BYTES", read=lambda answer: answer.label, empty=""),
        OutputTensor(name="probability", datatype="FP64", read=lambda answer: answer.probability, empty=math.nan),
        OutputTensor(
            name="probabilities",
            datatype="FP64",
            shape=of_each,
            read=lambda answer: answer.probabilities,
            empty=math.nan,
        ),
    ]
    if may_be_several:
        tensors.append(OutputTensor(name="decisions", datatype="BOOL", shape=of_each, read=_decisions, empty=False))
    # Of an item without an answer nothing should be used, either.
    tensors.append(
        OutputTensor(name="abstained", datatype="BOOL", read=lambda answer: answer.abstained is not None, empty=True)
    )
    if has_distance:
        tensors.append(
            OutputTensor(name="distance", datatype="FP64", read=lambda answer: answer.distance, empty=math.nan)
        )
    if has_outside:
        tensors.append(
            OutputTensor(name="unfamiliar", datatype="BOOL", read=lambda answer: bool(answer.outside), empty=True)
        )
    return tensors


def _decisions(answer: Any) -> list[bool]:
    """For each label whether it is one of the item's."""
    chosen = frozenset(answer.labels)
    return [name in chosen for name in answer.names]
