"""A kind of input: a row of numbers, as JSON."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.batch import Batch
from ..core.errors import InputError
from ..core.input import InputSpec


@dataclass(frozen=True, kw_only=True)
class NumbersSpec(InputSpec):
    """The row."""

    kind: Literal["numbers"] = "numbers"
    columns: int

    def create(self, threads: int = 1) -> "Numbers":
        return Numbers(self)

    def example(self, items: int) -> dict[str, np.ndarray]:
        return {"row": np.zeros((items, self.columns), np.float32)}

    def describe(self) -> dict[str, Any]:
        return {"columns": self.columns}


@dataclass
class Numbers:
    """Its reader, and the opener of a request."""

    spec: NumbersSpec
    codes: ClassVar[dict[str, int]] = {}
    max_items: ClassVar[int] = 64

    def opener(self) -> "Numbers":
        return self

    def file(self, data: bytes) -> np.ndarray:
        return self.instance(json.loads(data))

    def instance(self, value: Any) -> np.ndarray:
        row = np.asarray(value["row"] if isinstance(value, dict) and "row" in value else [], np.float32)
        if row.shape != (self.spec.columns,):
            raise InputError("bad_request", f'expected {{"row": [...]}} with {self.spec.columns} numbers')
        return row

    def items(self, body: Any) -> None:
        return None

    def collate(self, items: list[Any]) -> Batch:
        good = [item for item in items if not isinstance(item, InputError)]
        rows = np.stack(good) if good else np.zeros((0, self.spec.columns), np.float32)
        return Batch({"row": rows}, tuple(item if isinstance(item, InputError) else None for item in items))

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        pass


SPEC = NumbersSpec
