"""Which variants may be served, and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marquee.handlers.core.accuracy import DEFAULT_QUALITY, Quality, accuracy_refusal
from marquee.handlers.core.measurement import Measurement
from marquee.rounds import STEADY, ratio, spread
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


@dataclass(frozen=True)
class Order:
    """The variants that may be served, in the order in which they are preferred."""

    names: tuple[str, ...]
    reason: str
    """What was chosen, over what, and why."""
    warning: str = ""
    """That the timings were not steady; empty if they were."""


def order(measured: Mapping[str, Measurement], rounds: Mapping[str, Sequence[float]]) -> Order:
    """The fastest first, unless it is not faster than a simpler one by more than the measurements vary.

    Args:
        measured: the variants that may be served, the simplest first.
        rounds: items per second of each variant in each round of the timing.
    """
    names = rank(measured)
    fastest = names[0]
    advantages = {name: ratio(rounds[fastest], rounds[name]) for name in measured}
    chosen = next(name for name in measured if name == fastest or not advantages[name].is_more)
    names.remove(chosen)
    return Order((chosen, *names), _reason(chosen, fastest, names, measured, rounds), _unsteady(rounds))


def _reason(
    chosen: str,
    fastest: str,
    others: Sequence[str],
    measured: Mapping[str, Measurement],
    rounds: Mapping[str, Sequence[float]],
) -> str:
    if not others:
        return f"{chosen}: the only variant that may be served"
    at = f"at batches of {RANKED_BATCH}"
    if chosen != fastest:
        advantage = ratio(rounds[fastest], rounds[chosen])
        return (
            f"{chosen}: {fastest} is {advantage} as fast {at}, which is within what {len(rounds[chosen])} rounds vary, "
            "so the simpler one stays"
        )
    first = next(iter(measured))
    other = first if chosen != first else others[0]
    return f"{chosen}: {ratio(rounds[chosen], rounds[other])} as fast as {other} {at}"


def _unsteady(rounds: Mapping[str, Sequence[float]]) -> str:
    name = max(rounds, key=lambda name: spread(rounds[name]))
    if spread(rounds[name]) <= STEADY:
        return ""
    return (
        f"timings were not steady: the speed of {name} varied by {spread(rounds[name]):.0%} over {len(rounds[name])} "
        "rounds, as where other work runs on the machine; measure again when it is quiet, or with more --rounds"
    )


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
