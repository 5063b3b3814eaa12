"""The picture of a selection: accuracy against latency, marker area by size."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

_CHOSEN, _OTHER, _INK = "#d55e00", "#0072b2", "#333333"
"""Vermilion and blue of Okabe and Ito (2008), which colour-blind people tell apart."""
_LARGEST = 900.0
"""Area of the largest marker in square points."""
_SMALLEST = 25.0


@dataclass(frozen=True)
class Point:
    """One complete candidate; accuracies as fractions."""

    name: str
    mean: float
    low: float
    high: float
    latency_ms: float
    weight_mb: float


def draw(points: Sequence[Point], chosen: str, folds: int, form: str) -> bytes:
    """Draws at least one point.

    Args:
        points: candidates.
        chosen: the name of the one to mark.
        folds: how many the intervals come from.
        form: ``svg`` or ``png``.

    Returns:
        The file's content; equal points give equal bytes.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    largest = max(point.weight_mb for point in points)
    for point in sorted(points, key=lambda item: -item.weight_mb):
        _mark(axes, point, point.name == chosen, largest)
    _scale(axes, points)
    axes.set_title(f"Accuracy and cost of each candidate, {folds} folds", loc="left", fontsize=12, color=_INK)
    axes.set_xlabel("latency of one image in ms (log scale)", color=_INK)
    axes.set_ylabel("accuracy in %, bars: 95 % interval", color=_INK)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    # Else names inside the SVG would be random.
    with mpl.rc_context({"svg.hashsalt": "selection"}):
        figure.savefig(content, format=form, dpi=120, metadata=metadata)
    return content.getvalue()


def _mark(axes: Axes, point: Point, is_chosen: bool, largest: float) -> None:
    colour = _CHOSEN if is_chosen else _OTHER
    mean, latency = 100 * point.mean, point.latency_ms
    bars = [[100 * (point.mean - point.low)], [100 * (point.high - point.mean)]]
    axes.errorbar([latency], [mean], yerr=bars, color=colour, capsize=4, linewidth=1.4, zorder=2)
    area = max(_SMALLEST, _LARGEST * point.weight_mb / largest)
    axes.scatter([latency], [mean], s=area, color=colour, alpha=0.55, edgecolors=colour, linewidths=1.2, zorder=3)
    axes.annotate(
        f"{point.name}{' (chosen)' if is_chosen else ''}\n{mean:.1f} %, {latency:.1f} ms, {point.weight_mb:.1f} MB",
        (latency, mean),
        # Beside the marker, however large it is.
        xytext=(area**0.5 / 2 + 6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        fontweight="bold" if is_chosen else "normal",
        color=_INK,
        zorder=4,
    )


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """Room on the right for the names, and ticks at plain numbers."""
    latencies = [point.latency_ms for point in points]
    axes.set_xscale("log")
    low, high = min(latencies), max(latencies)
    span = max(high / low, 2.0)
    axes.set_xlim(low / span**0.12, max(high, low * span) * span**0.4)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
