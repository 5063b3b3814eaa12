"""Which variants may be served, and their order."""

from collections.abc import Mapping, Sequence

from marquee.handlers.accuracy import accuracy_refusal
from marquee.handlers.measurement import Measurement
from marquee.training.optimize.config import RANKED_BATCH


def refusal(measured: Measurement, max_drop: float, p99_ms: float) -> str | None:
    """Why a variant may not be served; None when it may.

    Args:
        measured: the variant.
        max_drop: accuracy that it may lose.
        p99_ms: latency that it may have; 0: any.
    """
    if p99_ms and measured.latency_p99_ms > p99_ms:
        return f"p99 of {measured.latency_p99_ms:.1f} ms, {p99_ms:g} are allowed"
    return accuracy_refusal(measured, max_drop)


def rank(measured: Mapping[str, Measurement]) -> list[str]:
    """Names, the highest throughput at a batch of 8 first."""
    return sorted(measured, key=lambda name: -measured[name].images_per_second[str(RANKED_BATCH)])


def frontier(measured: Mapping[str, Measurement]) -> Sequence[str]:
    """Names of the variants that no other beats in both accuracy (or agreement) and median latency."""

    def quality(item: Measurement) -> float:
        return item.agreement if item.accuracy is None else item.accuracy

    best, found = float("-inf"), []
    for name in sorted(measured, key=lambda name: (measured[name].latency_p50_ms, -quality(measured[name]))):
        if quality(measured[name]) > best:
            best = quality(measured[name])
            found.append(name)
    return found
