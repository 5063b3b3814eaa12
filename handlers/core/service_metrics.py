"""What a worker tells about the requests that it answers (see docs/metrics.md)."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .counters import Accumulator, Family, Increment, zeros
from .errors import STATUS_BY_CODE, InputError
from .metrics_emitter import Emitter
from .output import Prediction
from .predictor import Predictor

logger = logging.getLogger(__name__)

STAGES = ("decode", "inference", "encode", "explain", "batch")
EXPLANATION_OUTCOMES = ("ok", "busy", "too_slow", "internal_error")
REST, GRPC = "rest", "grpc"
PROTOCOLS = (REST, GRPC)

SECONDS = Family(
    name="marquee_stage_seconds",
    labels=("stage",),
    unit="Seconds",
    bounds=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_SIZE = Family(name="marquee_batch_size", unit="Requests", bounds=(1, 2, 4, 8, 16, 32, 64, 128))
REQUESTS = Family(name="marquee_requests_total", labels=("protocol", "status"))
FAILURES = Family(name="marquee_failures_total", labels=("code",))
EXPLANATIONS = Family(name="marquee_explanations_total", labels=("outcome",))
INFO = "marquee_model_info"


class ServiceMetrics:
    """Counts what one worker does. No method raises: a mistake made while counting is logged once."""

    def __init__(self) -> None:
        self._accumulator = Accumulator()
        self._complained = False

    def report_to(self, cache: Any, predictor: Predictor, name: str, version: str) -> None:
        """Begins to report to TorchServe: first which model this is, then every series at 0, then what is counted.

        Args:
            cache: ``context.metrics``; without a server None, and then nothing is reported.
            predictor: the loaded model.
            name: of the model on the server.
            version: of the model on the server.
        """
        with self._guard():
            if cache is None:
                return
            emitter = Emitter(cache, {"model_name": name, "model_version": version})
            emitter.emit_gauge(INFO, _describe(predictor), 1)
            emitter.emit(_zeros(predictor))
            emitter.start(self._accumulator)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures how long the block takes; what it raises goes on.

        Args:
            name: one of :data:`STAGES`.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._guard():
                self._accumulator.observe(SECONDS, seconds, name)

    def count_batch(self, size: int) -> None:
        """Counts one batch of ``size`` requests."""
        with self._guard():
            self._accumulator.observe(BATCH_SIZE, size)

    def count_request(
        self, headers: Mapping[str, Any] | None, status: int, answers: Iterable[Prediction | InputError]
    ) -> None:
        """Counts one request and its items.

        Args:
            headers: as TorchServe gives them, which tell the protocol.
            status: the HTTP status of the answer, or what it would be over HTTP.
            answers: one for each item of the request.
        """
        with self._guard():
            self._accumulator.add(REQUESTS, protocol(headers), str(status))
            for answer in answers:
                if isinstance(answer, InputError):
                    self._accumulator.add(FAILURES, answer.code)
                else:
                    for observation in answer.observations():
                        self._accumulator.record(observation)

    def count_explanation(self, outcome: str) -> None:
        """Counts one explanation that was tried: ``ok``, or its error's code."""
        with self._guard():
            self._accumulator.add(EXPLANATIONS, outcome)

    def drain(self) -> list[Increment]:
        """What was counted since the last report."""
        return self._accumulator.drain()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if not self._complained:
                logger.exception("metrics cannot be counted; requests are answered as before")
            self._complained = True


def _zeros(predictor: Predictor) -> list[Increment]:
    """Every series that may be counted, at 0."""
    codes = {**STATUS_BY_CODE, **predictor.input.codes}
    series = zeros(BATCH_SIZE)
    series += predictor.output.zeros()
    for stage in STAGES:
        series += zeros(SECONDS, stage)
    for name in PROTOCOLS:
        for status in sorted({200, *codes.values()}):
            series += zeros(REQUESTS, name, str(status))
    for code in codes:
        series += zeros(FAILURES, code)
    for outcome in EXPLANATION_OUTCOMES:
        series += zeros(EXPLANATIONS, outcome)
    return series


def _describe(predictor: Predictor) -> dict[str, str]:
    """What is served, as labels."""
    variant = predictor.variant
    return {
        "bundle": predictor.bundle.digest.removeprefix("sha256:"),
        "variant": variant.name,
        "engine": variant.engine,
        "precision": variant.precision,
    }


def protocol(headers: Mapping[str, Any] | None) -> str:
    """``rest`` or ``grpc``: TorchServe passes no metadata of gRPC on, and marks what comes over HTTP.

    The mark is the header ``explain``; requests of the management API have none, but the header Host of HTTP/1.1.

    Args:
        headers: of one request; TorchServe keeps the content type of each body part among them, as a mapping.
    """
    named = {name.lower() for name, value in (headers or {}).items() if isinstance(value, str)}
    return REST if named & {"host", "explain"} else GRPC
