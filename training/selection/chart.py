"""The chart of a selection: the metric against latency; the marker area is proportional to the size of the weights."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from marquee.training.selection.measure import ACCURACY, Measure

_CHOSEN, _OTHER, _INK = "#d55e00", "#0072b2", "#333333"
"""Vermilion and blue of Okabe and Ito (2008), distinguishable with colour-vision deficiency."""
_LARGEST = 1000.0
"""Area of the largest marker in square points."""
_SMALLEST = 180.0
"""Area of the smallest marker in square points; it is still visible around the number."""


@dataclass(frozen=True)
class Point:
    """A candidate with all folds measured."""

    name: str
    mean: float
    """Of the metric; low and high are the ends of its interval."""
    low: float
    high: float
    latency_ms: float
    weight_mb: float


def draw(
    points: Sequence[Point], chosen: str, folds: int, form: str, measure: Measure = ACCURACY, item: str = "item"
) -> bytes:
    """Draws the chart.

    Args:
        points: the candidates, at least one.
        chosen: the name of the candidate to mark.
        folds: number of folds that the intervals are computed from.
        form: ``svg`` or ``png``.
        measure: the metric.
        item: the noun for what a model answers.

    Returns:
        The content of the image file; equal points give equal bytes.
    """
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    axes, key = figure.subplots(1, 2, width_ratios=[2.6, 1])
    largest = max(point.weight_mb for point in points)
    numbered = list(enumerate(points, start=1))
    for number, point in sorted(numbered, key=lambda item: -item[1].weight_mb):  # small ones on top
        _mark(axes, number, point, point.name == chosen, largest, measure)
    _scale(axes, points)
    _list(key, numbered, chosen, measure)
    title = measure.title[0].upper() + measure.title[1:]
    axes.set_title(f"{title} and cost of each candidate, {folds} folds", loc="left", fontsize=12, color=_INK)
    axes.set_xlabel(f"latency of one {item} in ms (log scale)", color=_INK)
    label = f"{measure.title} in {measure.unit}" if measure.unit else measure.title
    axes.set_ylabel(f"{label}, bars: 95 % interval", color=_INK)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    # Without a fixed salt, the ids inside the SVG would be random.
    with mpl.rc_context({"svg.hashsalt": "selection"}):
        figure.savefig(content, format=form, dpi=120, metadata=metadata)
    return content.getvalue()


def _mark(axes: Axes, number: int, point: Point, is_chosen: bool, largest: float, measure: Measure) -> None:
    colour = _CHOSEN if is_chosen else _OTHER
    mean, latency = measure.factor * point.mean, point.latency_ms
    bars = [[measure.factor * (point.mean - point.low)], [measure.factor * (point.high - point.mean)]]
    axes.errorbar([latency], [mean], yerr=bars, color=_INK, capsize=4, linewidth=1.2, zorder=3)
    area = max(_SMALLEST, _LARGEST * point.weight_mb / largest)
    axes.scatter([latency], [mean], s=area, color=colour, alpha=0.7, edgecolors=colour, linewidths=1, zorder=2)
    # The disc keeps the bar of a narrow interval from crossing the number.
    disc = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour}
    axes.text(latency, mean, str(number), ha="center", va="center", fontsize=7, color=_INK, bbox=disc, zorder=4)


def _list(key: Axes, numbered: Sequence[tuple[int, Point]], chosen: str, measure: Measure) -> None:
    """Lists the names beside the chart, where they cannot overlap."""
    key.set_axis_off()
    key.set_ylim(0, 1)
    step = min(0.13, 1 / len(numbered))
    for number, point in numbered:
        is_chosen = point.name == chosen
        top = 1 - (number - 1) * step
        title = f"{number}  {point.name}{', chosen' if is_chosen else ''}"
        weight = "bold" if is_chosen else "normal"
        key.text(0, top, title, va="top", fontsize=9, fontweight=weight, color=_CHOSEN if is_chosen else _INK)
        facts = f"     {measure.brief(point.mean)}, {point.latency_ms:.1f} ms, {point.weight_mb:.1f} MB"
        key.text(0, top - step * 0.38, facts, va="top", fontsize=8, color=_INK)
    key.text(0, 0, "Marker area: size of the weights", va="bottom", fontsize=8, color=_INK, style="italic")


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """Sets a logarithmic x axis over at least a factor of four, with margins and plain numbers as tick labels."""
    latencies = [point.latency_ms for point in points]
    low, high = min(latencies), max(latencies)
    room = max((high / low) ** 0.12, (4 / (high / low)) ** 0.5, 1.15)
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)
