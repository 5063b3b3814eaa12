"""Time what a worker's metrics cost: counting a batch, and writing a report.

Example: python -m benchmarks.serving.metrics
"""

import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ts
import tyro
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from benchmarks import ROOT
from benchmarks.results import Series, origin, write_result
from marquee.commands.cli import run
from marquee.handlers.metrics_emitter import Emitter
from marquee.handlers.predictor import Prediction
from marquee.handlers.service_metrics import STAGES, ServiceMetrics

RESULTS = ROOT / "benchmarks" / "serving" / "results" / "handler"
HEADERS = {"Host": "127.0.0.1:8080", "Content-Length": "1000", "body": {"content-type": "image/jpeg"}}


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Arguments."""

    rounds: int = 5
    """Every round times each of them once, in turn."""
    repeats: int = 2000
    """Batches counted in a round, and a hundredth of it reports written; the median of them is the round's value."""
    results: Path = RESULTS
    """Folder of the result file."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.repeats < 100:
            raise ValueError("expected at least 1 round and 100 repeats")


def measure(settings: Metrics) -> Path:
    """Times everything; returns the result file."""
    source = origin("metrics", "benchmarks.serving")
    contenders: dict[str, tuple[Callable[[], float], int]] = {
        "count a batch of 1": (lambda: _count(metrics, 1), settings.repeats),
        "count a batch of 8": (lambda: _count(metrics, 8), settings.repeats),
        "write a report": (lambda: _report(metrics, emitter), settings.repeats // 100),
    }
    metrics, emitter = ServiceMetrics(), _emitter()
    series: Series = {name: {"microseconds": []} for name in contenders}
    for _ in range(settings.rounds):
        for name, (call, repeats) in contenders.items():
            median = statistics.median(call() for _ in range(repeats))
            series[name]["microseconds"].append(round(median * 1e6, 2))
    return write_result(settings.results, source.result({"repeats": settings.repeats}, series))


def _count(metrics: ServiceMetrics, images: int) -> float:
    """Seconds that the service spends on counting one batch of requests of one image each."""
    answer = Prediction(((3, "three", 0.97),), np.zeros(10), distance=0.9)
    started = time.perf_counter()
    for stage in STAGES:
        with metrics.stage(stage):
            pass
    metrics.count_batch(images)
    for _ in range(images):
        metrics.count_request(HEADERS, 200, [answer])
    return time.perf_counter() - started


def _report(metrics: ServiceMetrics, emitter: Emitter) -> float:
    """Seconds of one report, after a second in which all histograms have grown."""
    _count(metrics, 8)
    started = time.perf_counter()
    emitter.emit(metrics.drain())
    return time.perf_counter() - started


def _emitter() -> Emitter:
    """Writes lines as TorchServe's worker does, but to nowhere."""
    logging.basicConfig(stream=open(os.devnull, "w"), format="%(message)s", level=logging.INFO)  # noqa: SIM115
    cache = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    cache.initialize_cache()
    return Emitter(cache, {"model_name": "digits", "model_version": "1.0"})


def main() -> None:
    """Entry point."""
    settings = tyro.cli(Metrics, prog="python -m benchmarks.serving.metrics", description=__doc__)
    path = measure(settings)
    result = json.loads(path.read_text("utf-8"))
    if settings.json:
        print(json.dumps(result))
        return
    for name, metrics in result["summary"].items():
        found = metrics["microseconds"]
        print(f"{name}: {found['median']:.1f} us ({found['low']:.1f} to {found['high']:.1f})")
    print(f"result in {path}")


if __name__ == "__main__":
    run(main)
