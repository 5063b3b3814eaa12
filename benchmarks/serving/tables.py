"""A result of :mod:`benchmarks.serving.compare` as Markdown: promises, one table a load, start and memory."""

from collections.abc import Callable, Sequence

from benchmarks.render import Show, markdown, number, shown
from benchmarks.results import Result, Series, summarise
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.marquee import MARQUEE
from benchmarks.serving.contenders.stock import STOCK
from benchmarks.serving.targets import GATEWAYS, OURS, Verdict, judge, judge_gateway
from benchmarks.serving.turn import NOISY_CORES


def tables(result: Result) -> str:
    """All tables, without the line about the machine."""
    loads = [_load(result, f"{size}@{clients}") for size, clients in result["settings"]["cells"]]
    left_out = [f"Left out: {reason}." for reason in result["settings"]["left_out"].values()]
    return "\n\n".join([*_promises(result), *loads, _whole(result), *left_out])


def footnote(result: Result) -> str:
    """What the loads were and what ran."""
    settings, everyone = result["settings"], result["series"].values()
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    others = [
        one
        for metrics in everyone
        for name, values in metrics.items()
        if name.endswith("/other_cores")
        for one in values
    ]
    noisy = sum(value > NOISY_CORES for value in others)
    return (
        f"Loads of at least {settings['seconds']} s after {settings['warmup']} s of warming; {versions}. In {noisy} of "
        f"{len(others)} loads other processes used more than {NOISY_CORES:g} cores (at most {max(others):.2f})."
    )


def _promises(result: Result) -> list[str]:
    """A table for each kind of promises: those of servers, and those of the gateway where it was measured."""
    series = result["series"]
    gateways = [name for name in GATEWAYS if name in series]
    parts = [(gateways, judge_gateway)] if gateways else []
    # They are about other servers: a result of the gateway alone has none.
    if STOCK in series or not gateways:
        parts.insert(0, ([name for name in OURS if name in series] or [MARQUEE], judge))
    return [_verdicts(series, names, judge_one) for names, judge_one in parts]


def _verdicts(series: Series, names: Sequence[str], judge_one: Callable[[Series, str], list[Verdict]]) -> str:
    rows = [["promise", "wanted", *map(_title, names)]]
    for verdicts in zip(*(judge_one(series, name) for name in names), strict=True):
        rows.append([verdicts[0].promise, verdicts[0].wanted, *map(_outcome, verdicts)])
    return markdown(rows, ":---")


def _outcome(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "not measured"
    return f"{verdict.measured}, {'met' if verdict.is_met else '**missed**'}"


def _load(result: Result, cell: str) -> str:
    size, _, clients = cell.partition("@")
    base = result["baseline"]
    rows = [["", "requests/s", f"beside {_title(base)}", "p50 ms", "p99 ms", "CPU ms a request", "errors"]]
    for name, metrics in result["series"].items():
        rate = summarise(result, name, f"{cell}/requests_per_second")
        if rate is None:
            continue
        errors = sum(metrics[f"{cell}/errors"])
        shares = [_cell(result, name, f"{cell}/{metric}", number(1)) for metric in ("p50_ms", "p99_ms", "cpu_ms")]
        ratio = "–" if rate.ratio is None else f"{rate.ratio:.2f}x"
        first = shown(rate, number(1), result["rounds"])
        rows.append([_title(name), first, ratio, *shares, f"**{errors:.0f}**" if errors else "0"])
    if not base:
        rows = [[*row[:2], *row[3:]] for row in rows]
    return f"### Photographs of {size}, {clients} {'client' if clients == '1' else 'clients'}\n\n{markdown(rows)}"


def _whole(result: Result) -> str:
    rows = [["", "start to first answer, s", "memory (PSS), MB", "sum of resident sets, MB"]]
    shows = (("start_seconds", number(1)), ("pss_mb", number(0)), ("rss_mb", number(0)))
    rows += [[_title(name), *(_cell(result, name, *one) for one in shows)] for name in result["series"]]
    return f"### Start and memory\n\n{markdown(rows)}"


def _cell(result: Result, contender: str, metric: str, show: Show) -> str:
    summary = summarise(result, contender, metric)
    return "–" if summary is None else shown(summary, show, result["rounds"])


def _title(name: str) -> str:
    return CONTENDERS[name].title if name in CONTENDERS else name
