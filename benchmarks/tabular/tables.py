"""The results of these benchmarks as Markdown."""

import statistics
from collections.abc import Callable

from benchmarks.render import markdown, number, origin_of, shown
from benchmarks.results import Result, ratio_of, summarise
from benchmarks.tabular.contenders import FASTAPI, FASTAPI_WORKERS, MARQUEE, TITLES

_LOADS = {
    "row@16": "one row, 16 clients",
    "row@1": "one row, one client",
    "table@1": "10,000 rows, one client",
}


def tables(result: Result) -> str:
    """The table of a result, without the line about the machine."""
    kind = next(kind for kind in _KINDS if result["benchmark"].startswith(kind))
    return _KINDS[kind](result)


def origin(result: Result) -> str:
    """See :func:`benchmarks.render.origin_of`."""
    benchmark, rounds = result["benchmark"], result["rounds"]
    if benchmark.startswith("quality_"):
        source = f"{result['settings']['rows']} rows of {result['settings']['source']}"
        return f"{origin_of(result, f'{source}; {rounds} folds', ())}\n\n{_versions(result)}."
    if benchmark == "coverage":
        rows = ", ".join(f"{count} {split}" for split, count in result["settings"]["rows"].items())
        return origin_of(result, f"{rounds} splits ({rows})", ())
    if benchmark == "closed_form":
        return origin_of(result, "", ())
    settings = result["settings"]
    loads = f"Loads of {settings['seconds']:g} s after {settings['warmup']:g} s of warming; {_versions(result)}."
    return f"{origin_of(result, '', ())}\n\n{loads}"


def _versions(result: Result) -> str:
    """Of packages that :func:`benchmarks.render.origin_of` does not name."""
    return ", ".join(f"{name} {version}" for name, version in result["settings"]["versions"].items())


def _quality(result: Result) -> str:
    """Means over folds, and each fold."""
    wanted = result["settings"]["wanted"]
    rows = [["", "mean RMSE", "wanted", *(f"fold {fold + 1}" for fold in range(result["rounds"])), "seconds a fold"]]
    show = number(3 if wanted < 10 else 2 if wanted < 100 else 1)
    for contender, metrics in result["series"].items():
        mean = statistics.mean(metrics["rmse"])
        ours = contender.startswith("marquee")
        goal = f"at most {wanted:g}, {_outcome(mean <= wanted)}" if ours else "–"
        seconds = number(1)(statistics.median(metrics["seconds"]))
        rows.append([contender, show(mean), goal, *map(show, metrics["rmse"]), seconds])
    return markdown(rows)


def _coverage(result: Result) -> str:
    """Mean, lowest and highest."""
    level = result["settings"]["level"]
    rows = [["", "mean coverage", "wanted", "lowest", "highest", "mean width", "seconds a split"]]
    for contender, metrics in result["series"].items():
        values = metrics["coverage"]
        mean = statistics.mean(values)
        goal = f"{level:g} ± 0.01, {_outcome(abs(mean - level) <= 0.01)}"
        width, seconds = statistics.mean(metrics["interval_width"]), statistics.median(metrics["seconds"])
        ends = [number(3)(end) for end in (min(values), max(values))]
        rows.append([contender, number(4)(mean), goal, *ends, number(1)(width), number(1)(seconds)])
    return markdown(rows)


def _closed_form(result: Result) -> str:
    """One row a data set."""
    wanted = result["settings"]["wanted"]
    rows = [["", "rows", "largest relative difference", "wanted", "tolerance", "steps", "learning rate", "momentum"]]
    for name, metrics in result["series"].items():
        (value,), (count,), (steps,) = metrics["difference"], metrics["rows"], metrics["steps"]
        (rate,), (momentum,), (tolerance,) = metrics["rate"], metrics["momentum"], metrics["tolerance"]
        goal = f"at most {wanted:g}, {_outcome(value <= wanted)}"
        facts = [f"{tolerance:g}", f"{steps:.0f}", f"{rate:.3f}", f"{momentum:.3f}"]
        rows.append([name, f"{count:.0f}", f"{value:.1e}", goal, *facts])
    return markdown(rows)


def _serving(result: Result) -> str:
    """Promises, a table for each load, start and memory."""
    parts = [_promises(result)]
    for load, title in _LOADS.items():
        rows = [["", "requests/s", "p50 ms", "p99 ms", "CPU ms a request", "errors"]]
        for name in result["series"]:
            metrics = ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms")
            cells = [_cell(result, name, f"{load}/{metric}") for metric in metrics]
            errors = sum(result["series"][name][f"{load}/errors"])
            rows.append([TITLES[name], *cells, f"**{errors:.0f}**" if errors else "0"])
        parts.append(f"### {title[0].upper()}{title[1:]}\n\n{markdown(rows)}")
    rows = [["", "start to first answer, s", "memory (PSS), MB"]]
    rows += [
        [TITLES[name], *(_cell(result, name, one) for one in ("start_seconds", "pss_mb"))] for name in result["series"]
    ]
    others = [
        value
        for metrics in result["series"].values()
        for name, values in metrics.items()
        if name.endswith("/other_cores")
        for value in values
    ]
    noise = (
        f"Other processes used at most {max(others):.2f} cores during a load (median {statistics.median(others):.2f})."
    )
    return "\n\n".join([*parts, f"### Start and memory\n\n{markdown(rows)}", noise])


def _promises(result: Result) -> str:
    series = result["series"]
    rows = [["promise", "wanted", "beside one process", "beside a process a core"]]
    for load, wanted in (("row@16", 3.0), ("table@1", 1.0)):
        metric = f"{load}/requests_per_second"
        cells = []
        for peer in (FASTAPI, FASTAPI_WORKERS):
            if MARQUEE not in series or peer not in series:
                cells.append("not measured")
                continue
            ratio = ratio_of(series[MARQUEE][metric], series[peer][metric])
            cells.append(f"{ratio:.2f}x, {_outcome(ratio >= wanted)}")
        rows.append([f"{_LOADS[load]}: requests/s beside FastAPI", f"at least {wanted:g}x", *cells])
    alone = summarise(result, MARQUEE, "row@1/p50_ms") if MARQUEE in series else None
    told = "not measured" if alone is None else f"{alone.median:.1f} ms, {_outcome(alone.median <= 5)}"
    rows.append([f"{_LOADS['row@1']}: median latency", "at most 5 ms", told, "–"])
    return markdown(rows, ":---")


def _cell(result: Result, contender: str, metric: str) -> str:
    summary = summarise(result, contender, metric)
    return "–" if summary is None else shown(summary, number(1), result["rounds"])


def _outcome(met: bool) -> str:
    return "met" if met else "**missed**"


_KINDS: dict[str, Callable[[Result], str]] = {
    "quality_": _quality,
    "coverage": _coverage,
    "closed_form": _closed_form,
    "serving": _serving,
}
"""How the name of a benchmark begins -> its table."""
