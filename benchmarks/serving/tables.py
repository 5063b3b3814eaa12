"""A result of :mod:`benchmarks.serving.compare` as Markdown: promises, one table a load, start and memory."""

from collections.abc import Sequence

from benchmarks.results import Result, Summary
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.marquee import MARQUEE
from benchmarks.serving.targets import OURS, Verdict, judge
from benchmarks.serving.turn import NOISY_CORES


def tables(result: Result) -> str:
    """All tables, without the line about the machine."""
    cells = [f"{size}@{clients}" for size, clients in result.settings["cells"]]
    parts = [_promises(result), *(_load(result, cell) for cell in cells), _whole(result), *_left_out(result)]
    return "\n\n".join(parts)


def footnote(result: Result) -> str:
    """What the loads were and what ran."""
    settings = result.settings
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    others = [
        value
        for metrics in result.series.values()
        for metric, values in metrics.items()
        if metric.endswith("/other_cores")
        for value in values
    ]
    noisy = sum(value > NOISY_CORES for value in others)
    return (
        f"Loads of at least {settings['seconds']} s after {settings['warmup']} s of warming; {versions}. In {noisy} of "
        f"{len(others)} loads other processes used more than {NOISY_CORES:g} cores (at most {max(others):.2f})."
    )


def _promises(result: Result) -> str:
    names = [name for name in OURS if name in result.series] or [MARQUEE]
    rows = [["promise", "wanted", *map(_title, names)]]
    for verdicts in zip(*(judge(result.series, name) for name in names), strict=True):
        rows.append([verdicts[0].promise, verdicts[0].wanted, *map(_outcome, verdicts)])
    return _markdown(rows, ":---")


def _outcome(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "not measured"
    return f"{verdict.measured}, {'met' if verdict.is_met else '**missed**'}"


def _load(result: Result, cell: str) -> str:
    size, _, clients = cell.partition("@")
    rows = [["", "requests/s", f"beside {_title(result.baseline)}", "p50 ms", "p99 ms", "CPU ms a request", "errors"]]
    for name, metrics in result.summary.items():
        if f"{cell}/requests_per_second" not in metrics:
            continue
        rate, errors = metrics[f"{cell}/requests_per_second"], sum(result.series[name][f"{cell}/errors"])
        rows.append(
            [
                _title(name),
                _shown(rate, ".1f"),
                "–" if rate.ratio is None else f"{rate.ratio:.2f}x",
                *(_shown(metrics[f"{cell}/{metric}"], ".1f") for metric in ("p50_ms", "p99_ms", "cpu_ms")),
                f"**{errors:.0f}**" if errors else "0",
            ]
        )
    if not result.baseline:
        rows = [[*row[:2], *row[3:]] for row in rows]
    head = f"### Photographs of {size}, {clients} {'client' if clients == '1' else 'clients'}"
    return f"{head}\n\n{_markdown(rows, '---:')}"


def _whole(result: Result) -> str:
    rows = [["", "start to first answer, s", "memory (PSS), MB", "sum of resident sets, MB"]]
    for name, metrics in result.summary.items():
        shown = [
            _shown(metrics["start_seconds"], ".1f"),
            *(_shown(metrics[one], ".0f") for one in ("pss_mb", "rss_mb")),
        ]
        rows.append([_title(name), *shown])
    return f"### Start and memory\n\n{_markdown(rows, '---:')}"


def _left_out(result: Result) -> list[str]:
    return [f"Left out: {reason}." for reason in result.settings["left_out"].values()]


def _title(name: str) -> str:
    return CONTENDERS[name].title if name in CONTENDERS else name


def _shown(summary: Summary, form: str) -> str:
    text = format(summary.median, form)
    if summary.low == summary.high:
        return text
    return f"{text} ({format(summary.low, form)} to {format(summary.high, form)})"


def _markdown(rows: Sequence[Sequence[str]], align: str) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| --- |" + f" {align} |" * (len(rows[0]) - 1))
    return "\n".join(lines)
