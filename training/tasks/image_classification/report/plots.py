"""Plots as SVG text that takes its colours from the page, so that light, dark and print show the same figure."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, PercentFormatter

# Placeholders: colours that nothing else draws with. The page's style sheet replaces them.
_INK, _GRID, _FIRST, _SECOND, _MARK = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {_INK: "--ink-soft", _GRID: "--line", _FIRST: "--first", _SECOND: "--second", _MARK: "--mark"}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: selectable, searchable, in the page's own font
    "svg.hashsalt": "marquee",  # equal runs give equal bytes
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
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
_THIRD, _HALF, _WIDE = (3.7, 2.8), (5.6, 4.0), (7.2, 3.4)

_MOST_POINTS = 600


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
        for (legend, key), color in zip(series.items(), (_FIRST, _SECOND), strict=False):
            points = [(line["epoch"], line[key]) for line in epochs if line.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                # A single epoch is a point, which a line would not show.
                axes.plot(x, y, color=color, label=legend, marker="o", markersize=3.5 if len(points) < 40 else 0)
        if best:
            axes.axvline(best, color=_MARK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"best epoch ({best})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if share:
            _percent(axes, "y")

    return _render(name, draw, _THIRD)


Bins = Sequence[dict[str, float]]
"""From :func:`marquee.training.tasks.image_classification.metrics.reliability`."""


def reliability_diagram(name: str, served: Bins, before: Bins | None) -> Markup:
    """Accuracy over confidence, larger points for more images; ``before``: at temperature 1, if another is served."""

    def draw(axes: Axes) -> None:
        axes.bar(
            [item["lower"] for item in served],
            [item["accuracy"] for item in served],
            width=[item["upper"] - item["lower"] - 0.006 for item in served],
            align="edge",
            color=_FIRST,
            alpha=0.35,
        )
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        if before is not None:
            axes.scatter(
                *_points(before), s=_areas(before), color=_SECOND, marker="s", alpha=0.8, label="temperature 1"
            )
        axes.scatter(*_points(served), s=_areas(served), color=_FIRST, label="as served")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        _percent(axes, "both")

    return _render(name, draw, _HALF)


def confidence_histogram(name: str, confidence: np.ndarray, correct: np.ndarray) -> Markup:
    """Shares of the right and of the wrong answers by confidence: as counts, the few wrong ones would be invisible."""

    def draw(axes: Axes) -> None:
        groups = {
            f"right ({correct.sum():,})": confidence[correct],
            f"wrong ({(~correct).sum():,})": confidence[~correct],
        }
        axes.hist(
            list(groups.values()),
            weights=[np.full(len(values), 1 / max(1, len(values))) for values in groups.values()],
            bins=np.linspace(0, 1, 21).tolist(),
            color=[_FIRST, _SECOND],
            label=list(groups),
            rwidth=0.9,
        )
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="share of the right or wrong answers")
        _percent(axes, "both")

    return _render(name, draw, _HALF)


def coverage(name: str, shares: np.ndarray, errors: np.ndarray, abstain: tuple[float, float] | None) -> Markup:
    """Error among accepted answers over their share; ``abstain`` is the point (share, error) of the served limit."""

    def draw(axes: Axes) -> None:
        # A point for each of many thousand images would make the page heavy and look the same.
        shown = np.unique(np.linspace(0, len(shares) - 1, _MOST_POINTS).round().astype(int))
        axes.plot(
            shares[shown], errors[shown], color=_FIRST, drawstyle="steps-post", label="error among accepted answers"
        )
        if abstain is not None:
            axes.plot(*abstain, color=_MARK, marker="D", markersize=8, linestyle="none", label="abstention threshold")
        axes.set(xlim=(0, 1.01), xlabel="accepted answers", ylabel="error")
        axes.set_ylim(0, max(0.01, float(errors.max()) * 1.15))
        _percent(axes, "both")

    return _render(name, draw, _WIDE)


def variants(name: str, measured: dict[str, dict[str, Any]], frontier: Sequence[str], chosen: str) -> Markup:
    """Accuracy (or agreement with fp32) over latency, numbered as in the page's table; a line joins the frontier."""

    def place(variant: str) -> tuple[float, float]:
        values = measured[variant]
        return values["latency_p50_ms"], values["agreement"] if values["accuracy"] is None else values["accuracy"]

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*map(place, frontier), strict=True), color=_GRID, zorder=1, label="best of its latency")
        others = [variant for variant in measured if variant != chosen]
        if others:
            latencies, scores = zip(*map(place, others), strict=True)
            axes.scatter(latencies, scores, color=_FIRST, s=36, zorder=2, label="measured")
        x, y = place(chosen)
        axes.scatter(x, y, color=_SECOND, marker="D", s=48, zorder=3, label="chosen")
        for number, variant in enumerate(measured, start=1):
            axes.annotate(str(number), place(variant), xytext=(6, 5), textcoords="offset points", color=_INK)
        labelled = all(values["accuracy"] is not None for values in measured.values())
        axes.set(xscale="log", xlabel="median latency of one image, ms", ylabel="accuracy" if labelled else "agreement")
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
        _percent(axes, "y")

    return _render(name, draw, _WIDE)


def _points(bins: Bins) -> tuple[list[float], list[float]]:
    return [item["confidence"] for item in bins], [item["accuracy"] for item in bins]


def _areas(bins: Bins) -> list[float]:
    """Areas of the points, in square points of print: a bin of two images must not look like one of two hundred."""
    largest = max(item["count"] for item in bins)
    return [10 + 110 * item["count"] / largest for item in bins]


def _percent(axes: Axes, which: str) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        if which in (axis.axis_name, "both"):
            axis.set_major_formatter(PercentFormatter(1, decimals=None, symbol="\u00a0%"))


def _render(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> Markup:
    # rc_context restores the settings; a Figure without pyplot is not registered globally.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        # Outside the axes: inside, it could hide data.
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
