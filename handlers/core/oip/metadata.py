"""Which tensors a model takes and gives: its metadata in the protocol. Needs no numpy, as reading a spec needs none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VARIABLE = -1
"""Length of an axis that may have any, such as that of the items."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of a request."""

    name: str
    datatype: str
    """Of the protocol, such as ``FP64`` or ``BYTES`` (see :mod:`.datatypes`)."""
    shape: tuple[int, ...] = (VARIABLE,)
    """The first axis is the item's."""

    def as_json(self) -> dict[str, Any]:
        """As the protocol's metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, kw_only=True)
class OutputTensor(TensorSpec):
    """One tensor of an answer."""

    read: Callable[[Any], Any]
    """A prediction -> its values: one, or as many as ``shape[1:]`` says; of ``BYTES`` one text."""
    empty: Any
    """What stands in the place of each value of an item that has no prediction."""


ANY_FILE = TensorSpec(name="input", datatype="BYTES")
"""What a kind of input takes that says nothing else: the contents of files, or JSON texts."""
