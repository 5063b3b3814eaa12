"""Which variants may be served, and their order."""

from collections.abc import Mapping, Sequence

from marquee.handlers.core.accuracy import DEFAULT_QUALITY, Quality, accuracy_refusal
from marquee.handlers.core.measurement import Measurement
from marquee.training.optimize.config import RANKED_BATCH


def refusal(measured: Measurement, max_drop: float, p99_ms: float, quality: Quality = DEFAULT_QUALITY) -> str | None:
    """The reason why a variant may not be served; None if it may.

    Args:
        measured: the variant's measurement.
        max_drop: largest allowed drop of the quality, as a fraction.
        p99_ms: largest allowed 99th percentile of the latency, in milliseconds; 0: no limit.
        quality: what the quality of the answers is.
    """
    if p99_ms and measured.latency_p99_ms > p99_ms:
        return f"p99 latency of {measured.latency_p99_ms:.1f} ms exceeds the limit of {p99_ms:g} ms"
    return accuracy_refusal(measured, max_drop, quality)


def rank(measured: Mapping[str, Measurement]) -> list[str]:
    """Names of the variants by throughput at a batch size of 8, the highest first."""
    return sorted(measured, key=lambda name: -measured[name].images_per_second[str(RANKED_BATCH)])


def frontier(measured: Mapping[str, Measurement]) -> Sequence[str]:
    """Names of the Pareto-optimal variants: no other is better in both accuracy (or agreement) and median latency."""

    def quality(item: Measurement) -> float:
        return item.agreement if item.accuracy is None else item.accuracy

    best, optimal = float("-inf"), []
    for name in sorted(measured, key=lambda name: (measured[name].latency_p50_ms, -quality(measured[name]))):
        if quality(measured[name]) > best:
            best = quality(measured[name])
            optimal.append(name)
    return optimal
