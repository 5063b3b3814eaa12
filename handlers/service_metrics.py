"""What a worker tells about the requests that it answers (see docs/metrics.md)."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .errors import STATUS_BY_CODE, InputError
from .metrics import Accumulator, Family, Increment, zeros
from .metrics_emitter import Emitter
from .predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

MAX_CLASSES = 100
"""Classes that are counted one by one; the rest, by their index in the bundle, are counted as ``other``."""

STAGES = ("decode", "inference", "encode", "explain", "batch")
EXPLANATION_OUTCOMES = ("ok", "busy", "too_slow", "internal_error")
PROTOCOLS = ("rest", "grpc")
REASONS = ("unfamiliar", "low_confidence")

SECONDS = Family(
    name="marquee_stage_seconds",
    labels=("stage",),
    unit="Seconds",
    bounds=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_SIZE = Family(name="marquee_batch_size", unit="Requests", bounds=(1, 2, 4, 8, 16, 32, 64, 128))
REQUESTS = Family(name="marquee_requests_total", labels=("protocol", "status"))
FAILURES = Family(name="marquee_failures_total", labels=("code",))
PREDICTIONS = Family(name="marquee_predictions_total", labels=("class",))
EXPLANATIONS = Family(name="marquee_explanations_total", labels=("outcome",))
ABSTAINED = Family(name="marquee_abstained_total", labels=("reason",))
CONFIDENCE = Family(
    name="marquee_confidence",
    unit="Probability",
    bounds=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999),
)
DISTANCE = Family(name="marquee_distance", unit="Ratio", bounds=(0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 10))
INFO = "marquee_model_info"


class ServiceMetrics:
    """Counts what one worker does. No method raises: a mistake made while counting is logged once."""

    def __init__(self) -> None:
        self._accumulator = Accumulator()
        self._classes: list[str] = []
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
            self._classes = list(predictor.spec.labels[:MAX_CLASSES])
            if cache is None:
                return
            emitter = Emitter(cache, {"model_name": name, "model_version": version})
            emitter.emit_gauge(INFO, _describe(predictor), 1)
            emitter.emit(self._zeros(predictor))
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
        """Counts one request and its images.

        Args:
            headers: as TorchServe gives them, which tell the protocol.
            status: the HTTP status of the answer, or what it would be over HTTP.
            answers: one for each image of the request.
        """
        with self._guard():
            self._accumulator.add(REQUESTS, protocol(headers), str(status))
            for answer in answers:
                if isinstance(answer, InputError):
                    self._accumulator.add(FAILURES, answer.code)
                else:
                    self._count_prediction(answer)

    def count_explanation(self, outcome: str) -> None:
        """Counts one explanation that was tried: ``ok``, or its error's code."""
        with self._guard():
            self._accumulator.add(EXPLANATIONS, outcome)

    def drain(self) -> list[Increment]:
        """What was counted since the last report."""
        return self._accumulator.drain()

    def _count_prediction(self, prediction: Prediction) -> None:
        self._accumulator.observe(CONFIDENCE, prediction.probability)
        if prediction.distance is not None:
            self._accumulator.observe(DISTANCE, prediction.distance)
        if prediction.abstained is not None:
            self._accumulator.add(ABSTAINED, prediction.abstained)
        for label in (prediction.label,) if prediction.labels is None else prediction.labels:
            self._accumulator.add(PREDICTIONS, label if label in self._classes else "other")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if not self._complained:
                logger.exception("metrics cannot be counted; requests are answered as before")
            self._complained = True

    def _zeros(self, predictor: Predictor) -> list[Increment]:
        spec = predictor.spec
        found = [*zeros(BATCH_SIZE), *zeros(CONFIDENCE)]
        if predictor.variant.measures_distance:
            found += zeros(DISTANCE)
        for stage in STAGES:
            found += zeros(SECONDS, stage)
        for one in PROTOCOLS:
            for status in sorted({200, *STATUS_BY_CODE.values()}):
                found += zeros(REQUESTS, one, str(status))
        for code in STATUS_BY_CODE:
            found += zeros(FAILURES, code)
        for outcome in EXPLANATION_OUTCOMES:
            found += zeros(EXPLANATIONS, outcome)
        for reason in REASONS:
            found += zeros(ABSTAINED, reason)
        for label in [*self._classes, "other"] if len(spec.labels) > MAX_CLASSES else self._classes:
            found += zeros(PREDICTIONS, label)
        return found


def _describe(predictor: Predictor) -> dict[str, str]:
    """What is served, as labels."""
    variant = predictor.variant
    return {
        "bundle": predictor.digest.removeprefix("sha256:"),
        "variant": variant.name,
        "engine": variant.engine,
        "precision": variant.precision,
    }


def protocol(headers: Mapping[str, Any] | None) -> str:
    """``rest`` or ``grpc``: HTTP/1.1 demands the header Host, and TorchServe passes no metadata of gRPC on.

    Args:
        headers: of one request; TorchServe keeps the content type of each body part among them, as a mapping.
    """
    named = {name.lower() for name, value in (headers or {}).items() if isinstance(value, str)}
    return "rest" if "host" in named else "grpc"
