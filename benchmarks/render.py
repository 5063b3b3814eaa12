"""Put the tables of the benchmarks' pages together from the result files, so that no number is typed by hand.

Each table stands between <!-- results: NAME --> and <!-- end --> on a README.md, for results/NAME.json beside it.

Example: python -m benchmarks.render
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import ROOT
from benchmarks.results import Result, Summary, read_result, summarise
from marquee.commands.cli import run
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_atomic

_PLACE = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_OF_TABLES = ("quality_", "coverage", "closed_form", "serving")
"""How the names of the benchmarks of benchmarks/tabular begin."""
Show = Callable[[float], str]


class Column(NamedTuple):
    """One metric of a table."""

    metric: str
    title: str
    show: Show
    beside: str = ""
    """Another column tells the ratio to the baseline (``ratio``) or the difference of the medians (``points``)."""


def percent(digits: int) -> Show:
    """A fraction as ``12.3 %``."""
    return lambda value: f"{100 * value:.{digits}f} %"


def number(digits: int) -> Show:
    """So many digits after the point."""
    return lambda value: f"{value:.{digits}f}"


COLUMNS = (
    Column("images_per_second", "images/s", number(1), "ratio"),
    Column("images_per_second_1", "images/s, batch 1", number(1), "ratio"),
    Column("images_per_second_8", "images/s, batch 8", number(1), "ratio"),
    Column("data_share", "waiting for data", percent(0)),
    Column("train_accuracy", "train accuracy", percent(2)),
    Column("test_accuracy", "test accuracy", percent(2), "points"),
    Column("val_accuracy", "validation accuracy", percent(2)),
    Column("gap", "gap", percent(2)),
    Column("test_nll", "test loss (nats)", number(3)),
    Column("epochs", "epochs", number(0)),
    Column("train_minutes", "minutes in training steps", number(1)),
    Column("wall_minutes", "minutes in all", number(1)),
    Column("sent", "sent", number(0)),
    Column("right", "right", number(0)),
    Column("refused", "refused", number(0)),
    Column("wrong", "wrong", number(0)),
    Column("lost", "lost", number(0)),
    Column("slowest_answer", "slowest answer (s)", number(1)),
    Column("slowest_refusal", "slowest refusal (s)", number(2)),
)
"""In the order of a table; a column that no contender has is left out."""


def tables(result: Result) -> str:
    """Markdown: medians, with lowest and highest where there are several rounds, and what they stand on."""
    if result["benchmark"] == "compare":
        from benchmarks.serving.tables import footnote, tables  # it has as many tables as loads

        return f"{tables(result)}\n\n{origin_of(result)}\n\n{footnote(result)}"
    if result["benchmark"].startswith(_OF_TABLES):
        from benchmarks.tabular.tables import origin, tables

        return f"{tables(result)}\n\n{origin(result)}"
    columns = [column for column in COLUMNS if any(column.metric in metrics for metrics in result["series"].values())]
    rows = [["", *(title for column in columns for title in _titles(column, result))]]
    for contender in result["series"]:
        rows.append([contender, *(cell for column in columns for cell in _cells(column, contender, result))])
    return f"{markdown(rows)}\n\n{origin_of(result)}"


def markdown(rows: Sequence[Sequence[str]], align: str = "---:") -> str:
    """A table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| --- |" + f" {align} |" * (len(rows[0]) - 1))
    return "\n".join(lines)


def shown(summary: Summary, show: Show, rounds: int) -> str:
    """A median, with the range where there are several rounds."""
    text = show(summary.median)
    return f"{text} ({show(summary.low)} to {show(summary.high)})" if rounds > 1 else text


def origin_of(result: Result, rounds: str = "", packages: Sequence[str] = ("torchvision", "timm")) -> str:
    """Rounds, machine, versions, date, commit and command of a result.

    Args:
        result: of a benchmark.
        rounds: what was measured how often; empty: medians of so many rounds.
        packages: libraries whose versions are named, beside torch and Python.
    """
    machine, versions = result["machine"], result["versions"]
    rounds = rounds or (
        f"Medians of {result['rounds']} rounds (lowest to highest)" if result["rounds"] > 1 else "One run"
    )
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", *packages, "python"))
    return (
        f"{rounds}; {machine['cpu']}, {machine['cores']} cores, {machine['isa']} ({', '.join(machine['isa_flags'])}), "
        f"{machine['threads']} threads, load {machine['load']:g} before; {libraries}; {result['date'][:10]}, "
        f"commit {result['commit']}:\n`{result['command']}`"
    )


def _titles(column: Column, result: Result) -> list[str]:
    words = {"ratio": "beside", "points": "minus"}
    extra = column.beside and result["baseline"]
    return [column.title, *([f"{words[column.beside]} {result['baseline']}"] if extra else [])]


def _cells(column: Column, contender: str, result: Result) -> list[str]:
    summary, baseline, cells = (
        summarise(result, contender, column.metric),
        result["baseline"],
        len(_titles(column, result)),
    )
    if summary is None:
        return ["–"] * cells
    beside = "–" if summary.ratio is None else f"{summary.ratio:.2f}x"
    if column.beside == "points":
        base = summarise(result, baseline, column.metric) if baseline not in ("", contender) else None
        beside = f"{100 * (summary.median - base.median):+.2f} points" if base else "–"
    return [shown(summary, column.show, result["rounds"]), beside][:cells]


def render(page: Path) -> str:
    """The page with every table filled in; a result that does not exist is called so.

    Raises:
        TrainingError: a result file is damaged, or has no place on the page.
    """
    text, results = page.read_text("utf-8"), page.parent / "results"
    places = [match["name"] for match in _PLACE.finditer(text)]
    for path in sorted(results.glob("*.json")):
        if path.stem not in places:
            raise TrainingError(f"{path}: the page has no place for it; add <!-- results: {path.stem} --><!-- end -->")

    def fill(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.json"
        content = tables(read_result(path)) if path.exists() else "Not measured yet."
        return f"{match[1]}\n{content}\n\n{match[3]}"

    return _PLACE.sub(fill, text)


def pages() -> list[Path]:
    """Every benchmark's page."""
    return sorted((ROOT / "benchmarks").glob("*/README.md"))


def main() -> None:
    """Entry point."""
    for page in pages():
        write_atomic(page, render(page))


if __name__ == "__main__":
    run(main)
