"""What this project promises about its speed, judged from a result's raw values."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.results import Series
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.limit import MANY_PROCESSES, ONE_PROCESS
from benchmarks.serving.contenders.marquee import MARQUEE, WORKER_A_CORE
from benchmarks.serving.contenders.stock import STOCK

_SMALL, _LARGE = "500x375", "4032x3024"
OURS = (MARQUEE, WORKER_A_CORE)
"""The archive as it is packaged, and with a worker a core, one of the settings that ``scripts/tune.py`` tries."""
_RATE, _MEDIAN = "requests_per_second", "p50_ms"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One promise."""

    promise: str
    wanted: str
    """Such as ``at least 10x``."""
    measured: str | None
    """None: something that it takes was not measured, or not in every round."""
    is_met: bool = False


def judge(series: Series, name: str = MARQUEE) -> list[Verdict]:
    """One verdict a promise. Ratios and differences are taken within each round; their median counts.

    Args:
        series: of a result.
        name: which of :data:`OURS`.
    """
    others = [other for other in series if other in CONTENDERS and CONTENDERS[other].kind == "ours"]
    rate = f"{_SMALL}@16/{_RATE}"
    best = _best(series, others, rate)
    title = f" ({CONTENDERS[best].title})" if best else ""
    limit, quickest = _limit(series, rate, max), _limit(series, f"{_SMALL}@1/{_MEDIAN}", min)
    ours, alone = _values(series, name, rate), _values(series, name, f"{_SMALL}@1/{_MEDIAN}")
    large = f"{_LARGE}@16/{_RATE}"
    return [
        _ratio("16 clients, beside TorchServe's stock handler", ours, _values(series, STOCK, rate), 10),
        _ratio("16 clients, beside the article's Flask", ours, _values(series, "flask", rate), 10),
        _ratio(f"16 clients, beside the best other server with our predictor{title}", ours, _of(series, best, rate), 1),
        _ratio("16 clients, beside the same predictor without a server", ours, limit, 0.85),
        _difference("one client, median latency above the same predictor without a server", alone, quickest, 4),
        _ratio(
            "photographs of 12 megapixels, 16 clients, beside TorchServe's stock handler",
            _values(series, name, large),
            _values(series, STOCK, large),
            4,
        ),
    ]


def sentence(verdict: Verdict) -> str:
    """One line."""
    if verdict.measured is None:
        return f"NOT MEASURED: {verdict.promise}: wanted {verdict.wanted}"
    return f"{'met' if verdict.is_met else 'MISSED'}: {verdict.promise}: {verdict.measured}, wanted {verdict.wanted}"


def _values(series: Series, contender: str, metric: str) -> list[float]:
    """One value a round; none where a round has none that counts, or had errors."""
    metrics = series.get(contender, {})
    values = metrics.get(metric, [])
    errors = metrics.get(f"{metric.partition('/')[0]}/errors", [])
    return [] if any(errors) or not all(values) else values


def _of(series: Series, contender: str | None, metric: str) -> list[float]:
    return _values(series, contender, metric) if contender else []


def _best(series: Series, contenders: Sequence[str], metric: str) -> str | None:
    """The one with the highest median."""
    measured = {name: values for name in contenders if (values := _values(series, name, metric))}
    return max(measured, key=lambda name: statistics.median(measured[name]), default=None)


def _limit(series: Series, metric: str, better: Callable[..., float]) -> list[float]:
    """In each round the better of both ways to use the cores."""
    ways = [values for name in (ONE_PROCESS, MANY_PROCESSES) if (values := _values(series, name, metric))]
    return [better(values) for values in zip(*ways, strict=True)]


def _ratio(promise: str, ours: list[float], theirs: list[float], wanted: float) -> Verdict:
    wish = f"at least {wanted:g}x"
    if not ours or len(ours) != len(theirs):
        return Verdict(promise=promise, wanted=wish, measured=None)
    value = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return Verdict(promise=promise, wanted=wish, measured=f"{value:.2f}x", is_met=value >= wanted)


def _difference(promise: str, ours: list[float], theirs: list[float], wanted: float) -> Verdict:
    wish = f"at most {wanted:g} ms"
    if not ours or len(ours) != len(theirs):
        return Verdict(promise=promise, wanted=wish, measured=None)
    value = statistics.median(one - other for one, other in zip(ours, theirs, strict=True))
    return Verdict(promise=promise, wanted=wish, measured=f"{value:.1f} ms", is_met=value <= wanted)
