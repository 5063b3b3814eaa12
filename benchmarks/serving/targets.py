"""What this project promises about its speed, judged from a result's raw values."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.results import Series, ratio_of
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.gateway import GATEWAY, GATEWAY_V2
from benchmarks.serving.contenders.limit import MANY_PROCESSES, ONE_PROCESS
from benchmarks.serving.contenders.marquee import MARQUEE, WORKER_A_CORE
from benchmarks.serving.contenders.stock import STOCK

OURS = (MARQUEE, WORKER_A_CORE)
"""The archive as it is packaged, and with a worker a core, one of the settings that ``marquee tune`` tries."""
GATEWAYS = (GATEWAY, GATEWAY_V2)
"""The gateway in front of the first of these, by TorchServe's own route and by the Open Inference Protocol."""
_RATE, _LARGE_RATE = "500x375@16/requests_per_second", "4032x3024@16/requests_per_second"
_ALONE = "500x375@1/p50_ms"


class Verdict(NamedTuple):
    """One promise."""

    promise: str
    wanted: str
    """Such as ``at least 10x``."""
    measured: str | None
    """None: something that it takes was not measured, or not in every round."""
    is_met: bool


def judge(series: Series, name: str = MARQUEE) -> list[Verdict]:
    """One verdict a promise. Ratios and differences are taken within each round; their median counts.

    Args:
        series: of a result.
        name: which of :data:`OURS`.
    """
    best, title = _best(series, [name for name, contender in CONTENDERS.items() if contender.kind == "ours"])
    stock, small, large = "TorchServe's stock handler", "16 clients, beside ", "photographs of 12 megapixels, "
    ours, alone = _values(series, name, _RATE), "one client, median latency above the same predictor without a server"
    return [
        _verdict(small + stock, ours, _values(series, STOCK, _RATE), 10),
        _verdict(small + "the article's Flask", ours, _values(series, "flask", _RATE), 10),
        _verdict(f"{small}the best other server with our predictor{title}", ours, _values(series, best, _RATE), 1),
        _verdict(small + "the same predictor without a server", ours, _limit(series, _RATE, max), 0.85),
        _verdict(alone, _values(series, name, _ALONE), _limit(series, _ALONE, min), 4, "ms"),
        _verdict(large + small + stock, _values(series, name, _LARGE_RATE), _values(series, STOCK, _LARGE_RATE), 4),
    ]


def judge_gateway(series: Series, name: str = GATEWAY) -> list[Verdict]:
    """One verdict a promise of the gateway, as :func:`judge`.

    Args:
        series: of a result.
        name: which of :data:`GATEWAYS`.
    """
    best, title = _best(series, [name for name, contender in CONTENDERS.items() if contender.environment is not None])
    ours, direct = _values(series, name, _RATE), "TorchServe's own port"
    latency = f"one client, median latency above that at {direct}"
    return [
        _verdict(f"16 clients, beside {direct}", ours, _values(series, MARQUEE, _RATE), 0.95),
        _verdict(latency, _values(series, name, _ALONE), _values(series, MARQUEE, _ALONE), 1.5, "ms"),
        _verdict(
            f"16 clients, beside the better of MLServer and KServe with our predictor{title}",
            ours,
            _values(series, best, _RATE),
            1.3,
        ),
    ]


def _best(series: Series, names: Sequence[str]) -> tuple[str, str]:
    """The one of these with the highest rate, and its title in parentheses; empty: none was measured."""
    measured = {name: values for name in names if (values := _values(series, name, _RATE))}
    best = max(measured, key=lambda name: statistics.median(measured[name]), default="")
    return best, f" ({CONTENDERS[best].title})" if best else ""


def _values(series: Series, contender: str, metric: str) -> list[float]:
    """One value a round; none where a round has none that counts, or had errors."""
    metrics = series.get(contender, {})
    values = metrics.get(metric, [])
    errors = metrics.get(f"{metric.partition('/')[0]}/errors", [])
    return [] if any(errors) or not all(values) else values


def _limit(series: Series, metric: str, better: Callable[..., float]) -> list[float]:
    """In each round the better of both ways to use the cores."""
    ways = [values for name in (ONE_PROCESS, MANY_PROCESSES) if (values := _values(series, name, metric))]
    return [better(values) for values in zip(*ways, strict=True)]


def _verdict(promise: str, ours: Sequence[float], theirs: Sequence[float], wanted: float, unit: str = "x") -> Verdict:
    """``x``: a ratio of at least ``wanted``; ``ms``: a difference of at most that."""
    wish = f"at least {wanted:g}x" if unit == "x" else f"at most {wanted:g} ms"
    if not ours or len(ours) != len(theirs):
        return Verdict(promise, wish, None, False)
    if unit == "x":
        value = ratio_of(ours, theirs)
        return Verdict(promise, wish, f"{value:.2f}x", value >= wanted)
    value = statistics.median(one - other for one, other in zip(ours, theirs, strict=True))
    return Verdict(promise, wish, f"{value:.1f} ms", value <= wanted)
