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
from matplotlib.ticker import MaxNLocator, PercentFormatter

from training.report.measures import Bin

# Placeholders: colours that nothing else draws with. The page's style sheet decides what they look like.
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
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
}

_SIZE = (4.6, 3.0)
"""Inches, at 72 points; the page scales the figure to its column."""


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
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.legend(loc="best")

    return _render(name, draw)


def reliability_diagram(name: str, served: Sequence[Bin], before: Sequence[Bin] | None) -> Markup:
    """Accuracy over confidence; ``before`` is the model without its temperature, where it has one."""

    def draw(axes: Axes) -> None:
        filled = [item for item in served if item.count]
        axes.bar(
            [item.lower for item in filled],
            [item.accuracy or 0.0 for item in filled],
            width=1 / max(1, len(served)) - 0.006,
            align="edge",
            color=_FIRST,
            alpha=0.35,
            label="accuracy of the bin",
        )
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
        # None as a coordinate is a gap.
        axes.plot(*_points(filled), color=_FIRST, marker="o", markersize=4, label="as served")
        if before is not None:
            axes.plot(*_points(before), color=_SECOND, marker="s", markersize=3.5, linewidth=1.4, label="temperature 1")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        _percent(axes, "both")
        axes.legend(loc="upper left")

    return _render(name, draw, size=(4.6, 3.6))


def confidence_histogram(name: str, confidence: np.ndarray, correct: np.ndarray) -> Markup:
    """Images by confidence, right and wrong ones stacked."""

    def draw(axes: Axes) -> None:
        axes.hist(
            [confidence[correct], confidence[~correct]],
            bins=np.linspace(0, 1, 21).tolist(),
            stacked=True,
            color=[_FIRST, _SECOND],
            label=["right", "wrong"],
            rwidth=0.9,
        )
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _percent(axes, "x")
        axes.legend(loc="upper left")

    return _render(name, draw, size=(4.6, 3.6))


def coverage(name: str, shares: np.ndarray, errors: np.ndarray, abstain: tuple[float, float] | None) -> Markup:
    """Error among accepted answers over their share; ``abstain`` is the point (share, error) of the served limit."""

    def draw(axes: Axes) -> None:
        axes.plot(shares, errors, color=_FIRST, drawstyle="steps-post", label="error among accepted answers")
        if abstain is not None:
            axes.plot(*abstain, color=_MARK, marker="D", markersize=8, linestyle="none", label="abstention threshold")
        axes.set(xlim=(0, 1.01), xlabel="accepted answers", ylabel="error")
        axes.set_ylim(0, max(0.01, float(errors.max()) * 1.15))
        _percent(axes, "both")
        axes.legend(loc="upper left")

    return _render(name, draw, size=(6.4, 3.2))


def _points(bins: Sequence[Bin]) -> tuple[list[float], list[float]]:
    pairs = [
        (item.confidence, item.accuracy) for item in bins if item.confidence is not None and item.accuracy is not None
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _percent(axes: Axes, which: str) -> None:
    if which in ("x", "both"):
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if which in ("y", "both"):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _render(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE) -> Markup:
    # rc_context restores the settings; Figure without pyplot is in no global list.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Markup(_for_page(buffer.getvalue(), name))  # noqa: S704 - drawn here, with no text but this file's


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
