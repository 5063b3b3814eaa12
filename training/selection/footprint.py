"""What a candidate costs when it is served: time, memory, parameters."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from marquee.handlers.predictor import Predictor
from marquee.training.data.loading import EvaluationImages
from marquee.training.data.manifest import Record
from marquee.training.export import MODEL_FILE

WARM_UP = 5
REPEATS = 30


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Cost of one exported program on this machine's CPU."""

    latency_ms: float
    """Median milliseconds from a prepared image to probabilities, one image at a time."""
    weight_mb: float
    """Weights and buffers, in millions of bytes."""
    parameters: int
    """Numbers that training may change."""


def measure_footprint(bundle: Path, record: Record) -> Footprint:
    """Measures the bundle's first variant on one real image, after a warm-up."""
    predictor = Predictor.load(bundle)
    images = EvaluationImages([record], predictor.spec.labels, predictor.spec.image)
    batch = images[0][0].numpy()[None]
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        predictor.probabilities(batch)
        seconds.append(time.perf_counter() - started)
    program = torch.export.load(bundle / MODEL_FILE)
    held = program.state_dict.values()
    return Footprint(
        latency_ms=1000 * statistics.median(seconds[WARM_UP:]),
        weight_mb=sum(value.numel() * value.element_size() for value in held) / 1e6,
        parameters=sum(value.numel() for value in program.parameters()),
    )
