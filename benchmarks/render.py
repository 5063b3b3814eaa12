"""Put the tables of the benchmarks' pages together from the result files, so that no number is typed by hand.

Each table stands between <!-- results: NAME --> and <!-- end -->, for results/NAME.json.

Example: python -m benchmarks.render

With --check nothing is written: the exit code is 1 when the page is not what the result files give.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import ROOT
from benchmarks.results import RESULTS, Result, Summary, read_result
from marquee.commands.cli import run
from marquee.training.errors import TrainingError
from marquee.training.files import write_atomic

PAGE = ROOT / "benchmarks" / "training" / "README.md"
HANDLER_PAGE = ROOT / "benchmarks" / "serving" / "handler.md"
SERVER_PAGE = ROOT / "benchmarks" / "serving" / "server.md"
ENGINES_PAGE = ROOT / "benchmarks" / "optimize" / "README.md"
SERVING_PAGE = ROOT / "benchmarks" / "serving" / "README.md"
_PLACE = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric of a table."""

    metric: str
    title: str
    show: Callable[[float], str]
    ratio: bool = False
    """Another column tells the ratio to the baseline."""
    difference: bool = False
    """Another column tells the difference of the medians to the baseline's."""


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


COLUMNS = (
    Column(metric="images_per_second", title="images/s", show="{:.1f}".format, ratio=True),
    Column(metric="images_per_second_1", title="images/s, batch 1", show="{:.1f}".format, ratio=True),
    Column(metric="images_per_second_8", title="images/s, batch 8", show="{:.1f}".format, ratio=True),
    Column(metric="ms_500x375", title="500 x 375, ms", show="{:.2f}".format, ratio=True),
    Column(metric="ms_1920x1080", title="1920 x 1080, ms", show="{:.1f}".format, ratio=True),
    Column(metric="ms_4032x3024", title="4032 x 3024, ms", show="{:.1f}".format, ratio=True),
    Column(metric="first_ms_1", title="first of 1, ms", show="{:.1f}".format),
    Column(metric="later_ms_1", title="later", show="{:.1f}".format),
    Column(metric="first_ms_4", title="first of 4, ms", show="{:.1f}".format),
    Column(metric="later_ms_4", title="later", show="{:.1f}".format),
    Column(metric="first_ms_8", title="first of 8, ms", show="{:.1f}".format),
    Column(metric="later_ms_8", title="later", show="{:.1f}".format),
    Column(metric="agreement", title="same label", show=_percent),
    Column(metric="mean_change", title="change of the probabilities, mean", show="{:.4f}".format),
    Column(metric="largest_change", title="largest", show="{:.4f}".format),
    Column(metric="requests_per_second", title="requests/s", show="{:.0f}".format, ratio=True),
    Column(metric="microseconds", title="µs", show="{:.1f}".format),
    Column(metric="cpu_us_per_request", title="CPU a request, µs", show="{:.1f}".format, ratio=True),
    Column(metric="offered_per_second", title="offered/s", show="{:.0f}".format),
    Column(metric="answers_per_second", title="answers/s", show="{:.0f}".format, ratio=True),
    Column(metric="latency_p50_ms", title="p50 ms", show="{:.1f}".format, ratio=True),
    Column(metric="latency_p99_ms", title="p99 ms", show="{:.1f}".format),
    Column(metric="one_p50_ms", title="p50 ms, one client", show="{:.2f}".format, ratio=True),
    Column(metric="memory_mb", title="MB", show="{:.0f}".format),
    Column(metric="rejected_share", title="503", show=_share),
    Column(metric="rejected_p99_ms", title="p99 of 503s, ms", show="{:.1f}".format),
    Column(metric="errors", title="errors", show="{:.0f}".format),
    Column(metric="data_share", title="waiting for data", show=_share),
    Column(metric="train_accuracy", title="train accuracy", show=_percent),
    Column(metric="test_accuracy", title="test accuracy", show=_percent, difference=True),
    Column(metric="val_accuracy", title="validation accuracy", show=_percent),
    Column(metric="gap", title="gap", show=_percent),
    Column(metric="test_nll", title="test loss (nats)", show="{:.3f}".format),
    Column(metric="epochs", title="epochs", show="{:.0f}".format),
    Column(metric="train_minutes", title="minutes in training steps", show="{:.1f}".format),
    Column(metric="wall_minutes", title="minutes in all", show="{:.1f}".format),
)
"""In the order of a table; a column that no contender has is left out."""


def table(result: Result) -> str:
    """Markdown: medians, with lowest and highest where there are several rounds, and what they stand on."""
    if result.benchmark == "compare":
        from benchmarks.serving.tables import footnote, tables  # it has as many tables as loads

        return "\n".join([tables(result), "", *_footnote(result), "", footnote(result)])
    columns = [column for column in COLUMNS if any(column.metric in row for row in result.summary.values())]
    rows = [["", *(title for column in columns for title in _titles(column, result))]]
    for contender, metrics in result.summary.items():
        rows.append([contender, *(cell for column in columns for cell in _cells(column, contender, metrics, result))])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join([*lines, "", *_footnote(result)])


def _titles(column: Column, result: Result) -> list[str]:
    titles = [column.title]
    if column.ratio and result.baseline:
        titles.append(f"beside {result.baseline}")
    if column.difference and result.baseline:
        titles.append(f"minus {result.baseline}")
    return titles


def _cells(column: Column, contender: str, metrics: dict[str, Summary], result: Result) -> list[str]:
    summary = metrics.get(column.metric)
    extra = len(_titles(column, result)) - 1
    if summary is None:
        return ["–"] * (1 + extra)
    cells = [column.show(summary.median)]
    if result.rounds > 1:
        cells[0] += f" ({column.show(summary.low)} to {column.show(summary.high)})"
    if column.ratio and result.baseline:
        cells.append("–" if summary.ratio is None else f"{summary.ratio:.2f}x")
    if column.difference and result.baseline:
        base = result.summary[result.baseline].get(column.metric)
        is_same = base is None or contender == result.baseline
        cells.append("–" if base is None or is_same else f"{100 * (summary.median - base.median):+.2f} points")
    return cells


def _footnote(result: Result) -> list[str]:
    machine = result.machine
    rounds = f"Medians of {result.rounds} rounds (lowest to highest)" if result.rounds > 1 else "One run"
    libraries = ", ".join(f"{name} {result.versions[name]}" for name in ("torch", "torchvision", "timm", "python"))
    return [
        f"{rounds}; {machine.cpu}, {machine.cores} cores, {machine.isa} ({', '.join(machine.isa_flags)}), "
        f"{machine.threads} threads, load {machine.load:g} before; {libraries}; {result.date[:10]}, "
        f"commit {result.commit}:",
        f"`{result.command}`",
    ]


def render(page: str, results: Path) -> str:
    """The page with every table filled in; a result that does not exist is called so.

    Raises:
        TrainingError: a result file is damaged, or has no place on the page.
    """
    places = [match["name"] for match in _PLACE.finditer(page)]
    for path in sorted(results.glob("*.json")):
        if path.stem not in places:
            raise TrainingError(f"{path}: the page has no place for it; add <!-- results: {path.stem} --><!-- end -->")

    def fill(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.json"
        content = table(read_result(path)) if path.exists() else "Not measured yet."
        return f"{match[1]}\n{content}\n\n{match[3]}"

    return _PLACE.sub(fill, page)


def fill_page(check: bool = False, page: Path = PAGE, results: Path = RESULTS) -> int:
    """Fills in the tables.

    Args:
        check: Write nothing; exit with 1 when the page is not up to date.
        page: The Markdown page.
        results: Folder of the result files.
    """
    before = page.read_text("utf-8")
    after = render(before, results)
    if before == after:
        return 0
    if check:
        print(f"error: {page}: not up to date; run python -m benchmarks.render", file=sys.stderr)
        return 1
    write_atomic(page, after)
    print(f"wrote {page}")
    return 0


def fill_pages(check: bool = False) -> int:
    """Fills in the tables of all pages.

    Args:
        check: Write nothing; exit with 1 when a page is not up to date.
    """
    pages = (
        (PAGE, RESULTS),
        (ENGINES_PAGE, ENGINES_PAGE.parent / "results"),
        (SERVING_PAGE, SERVING_PAGE.parent / "results"),
        (HANDLER_PAGE, HANDLER_PAGE.parent / "results" / "handler"),
        (SERVER_PAGE, SERVER_PAGE.parent / "results" / "server"),
    )
    return max(fill_page(check, page, results) for page, results in pages)


def main() -> int:
    """Entry point."""
    return tyro.cli(fill_pages, prog="python -m benchmarks.render", description=__doc__)


if __name__ == "__main__":
    run(main)
