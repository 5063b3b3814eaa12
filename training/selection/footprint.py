"""The cost of serving a candidate: latency, memory and parameters."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee.handlers.core.engines.exported import load_program
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.export import MODEL_FILE
from marquee.training.core.task import task_for

WARM_UP = 5
REPEATS = 30


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Cost of one exported program on the CPU of this machine."""

    latency_ms: float
    """Median time from the arrays of one item to its answer in milliseconds, at a batch size of 1."""
    weight_mb: float
    """Weights and buffers, in millions of bytes."""
    parameters: int
    """Number of trainable parameters."""


def measure_footprint(bundle: Path, record: Any) -> Footprint:
    """Measures the bundle's first variant on one real item, after a warm-up."""
    predictor = Predictor.load(bundle)
    (inputs,) = task_for(predictor.spec).batches(predictor.spec, [record], 0)
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        predictor.predict_arrays(inputs)
        seconds.append(time.perf_counter() - started)
    program = load_program(bundle / MODEL_FILE)
    tensors = program.state_dict.values()
    return Footprint(
        latency_ms=1000 * statistics.median(seconds[WARM_UP:]),
        weight_mb=sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6,
        parameters=sum(parameter.numel() for parameter in program.parameters()),
    )
