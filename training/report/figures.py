"""Figures as SVG text that takes its colours from the page, so that light, dark and print show the same figure."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

# Placeholders: colours that nothing else draws with. The page's style sheet replaces them.
INK, GRID, FIRST, SECOND, MARK = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {INK: "--ink-soft", GRID: "--line", FIRST: "--first", SECOND: "--second", MARK: "--mark"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, searchable, in the page's own font
    "svg.hashsalt": "marquee",  # equal runs give equal bytes
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.pad": 7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
}

# Inches. The page scales a figure to its column; these give the same size of text in all of them.
THIRD, HALF, WIDE = (3.7, 2.8), (5.6, 4.0), (7.2, 3.4)

MOST_POINTS = 600
_SAME = 1e-4


def curve(
    name: str, epochs: Sequence[dict[str, Any]], series: dict[str, str], best: int | None, share: bool = False
) -> Markup:
    """One value an epoch.

    Args:
        name: unique in the page.
        epochs: lines of metrics.jsonl.
        series: legend -> key of a line; keys that no line has are left out.
        best: the epoch to mark.
        share: the values are shares, shown in per cent.
    """

    def draw(axes: Axes) -> None:
        for (legend, key), color in zip(series.items(), (FIRST, SECOND), strict=False):
            points = [(line["epoch"], line[key]) for line in epochs if line.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                # A single epoch is a point, which a line would not show.
                axes.plot(x, y, color=color, label=legend, marker="o", markersize=3.5 if len(points) < 40 else 0)
        if best:
            axes.axvline(best, color=MARK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"best epoch ({best})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if share:
            percent(axes, "y")

    return render(name, draw, THIRD)


def variants(
    name: str,
    measured: dict[str, dict[str, Any]],
    frontier: Sequence[str],
    chosen: str,
    *,
    latency: str,
    quality: str,
) -> Markup:
    """Quality (or agreement with the first) over latency, numbered as in the page's table; a line joins the frontier.

    Args:
        name: unique in the page.
        measured: variant -> its measurement.
        frontier: variants that no other beats in both.
        chosen: the variant that is served.
        latency: label of the axis of latencies.
        quality: name of the quality, such as accuracy.
    """

    def place(variant: str) -> tuple[float, float]:
        values = measured[variant]
        return values["latency_p50_ms"], values["agreement"] if values["accuracy"] is None else values["accuracy"]

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*map(place, frontier), strict=True), color=GRID, zorder=1, label="best of its latency")
        others = [variant for variant in measured if variant != chosen]
        if others:
            latencies, scores = zip(*map(place, others), strict=True)
            axes.scatter(latencies, scores, color=FIRST, s=36, zorder=2, label="measured")
        x, y = place(chosen)
        axes.scatter(x, y, color=SECOND, marker="D", s=48, zorder=3, label="chosen")
        for number, variant in enumerate(measured, start=1):
            axes.annotate(str(number), place(variant), xytext=(6, 5), textcoords="offset points", color=INK)
        labelled = all(values["accuracy"] is not None for values in measured.values())
        axes.set(xscale="log", xlabel=latency, ylabel=quality if labelled else "agreement")
        low, high = axes.get_ylim()
        if high - low < _SAME:  # labels of differences that are nothing but rounding would all look the same
            axes.set_ylim((low + high) / 2 - 0.005, (low + high) / 2 + 0.005)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
        percent(axes, "y")

    return render(name, draw, WIDE)


def percent(axes: Axes, which: str) -> None:
    """Labels shares in per cent on the axis ``which``: x, y or both."""
    for axis in (axes.xaxis, axes.yaxis):
        if which in (axis.axis_name, "both"):
            axis.set_major_formatter(PercentFormatter(1, decimals=None, symbol="\u00a0%"))


def render(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> Markup:
    """A figure as an SVG element.

    Args:
        name: unique in the page.
        draw: draws on the axes, with colours of this module and no text from a file.
        size: in inches.
    """
    # rc_context restores the settings; a Figure without pyplot is not registered globally.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        # Outside the axes: inside, it could hide data.
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=3, handlelength=1.6, columnspacing=1.4, borderpad=0.1)
        buffer = io.StringIO()
        no_metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    return Markup(_for_page(buffer.getvalue(), name))  # noqa: S704 - drawn here, only with text of this file


def _for_page(svg: str, name: str) -> str:
    """The element without prologue, decorative to screen readers, ids unique in the page, colours from the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg
