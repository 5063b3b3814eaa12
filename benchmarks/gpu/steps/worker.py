"""A worker whose device runs out of memory and is then lost: ``python -m benchmarks.gpu.steps.worker BUNDLE DEVICE``.

It answers batches by the code that answers TorchServe's. On a GPU the faults are real: more memory is asked for than
there is, and then a kernel reads outside of its tensor, after which every call of the process fails. On a CPU the same
errors are raised. The process is to end with code 1; its rows are JSON lines on stdout.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.batch import Batch
from marquee.handlers.core.engines import Engine
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.golden import read_golden
from marquee.handlers.core.handler import Handler
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.device import resolve_device

_MUCH = 1 << 50
"""Bytes that no device has."""
_CALLS = 5
"""Batches after the loss that a worker may be asked for before it counts as one that does not end."""


class Faulty:
    """An engine that meets a fault before it computes.

    Args:
        engine: computes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.fault: Callable[[], object] = lambda: None

    def __call__(self, inputs: Arrays) -> Arrays:
        """As the engine, after the fault."""
        self.fault()
        return self._engine(inputs)

    def kernels(self) -> dict[str, int]:
        """As the engine's."""
        return self._engine.kernels()


def main(folder: Path, name: str) -> int:
    """Answers a good batch, one without memory, a good one, and batches on a lost device; ends with code 1 in them."""
    device = resolve_device(name)
    predictor = Predictor.load(folder, str(device))
    engine = Faulty(predictor.engine)
    predictor.engine = engine
    handler = Handler()
    handler._predictor = predictor
    samples = read_golden(predictor.bundle, predictor.variant)
    items = [predictor.input.opener().file(sample.data) for sample in samples[:2]]
    batch = predictor.input.collate(items)
    before = _answers(handler, batch)
    engine.fault = lambda: torch.empty(_MUCH, dtype=torch.uint8, device=device)
    failed = _answers(handler, batch)
    engine.fault = lambda: None
    after = _answers(handler, batch)
    _tell("out of memory: the answer", failed[0], failed[0] == "inference_failed", "inference_failed")
    _tell("out of memory: the next answer", after[0], after == before, "as before")
    engine.fault = _loss(device)
    for number in range(_CALLS):
        _tell("lost device: batches asked for", number + 1, None, "")
        _answers(handler, batch)
    return 0


def _answers(handler: Handler, batch: Batch) -> list[str]:
    """The label of each answer, or the code of its error."""
    return [answer.code if isinstance(answer, InputError) else answer.label for answer in handler.inference(batch)]


def _loss(device: torch.device) -> Callable[[], object]:
    def read_outside() -> None:
        if device.type == "cpu":
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        torch.arange(4, device=device)[torch.tensor([1 << 20], device=device)]

    return read_outside


def _tell(name: str, value: str | int, right: bool | None, wanted: str) -> None:
    # Flushed: a worker that ends at once leaves nothing in a buffer.
    print(json.dumps({"name": name, "value": value, "right": right, "wanted": wanted}), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
