"""Figures about the answers of a regression. No name of a column is drawn: it could be read as a formula."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from marquee.training.report.figures import FIRST, HALF, INK, MARK, SECOND, percent, render
from marquee.training.tasks.tabular.report.measures import Part

MOST_POINTS = 1500
"""Rows that are drawn one by one; of more, as many, from the smallest error to the largest."""
_BINS = 41
_DASHED = (0, (4, 3))


def drawn(errors: np.ndarray) -> np.ndarray:
    """Indices of the rows that are drawn, int (M,), those with the largest and the smallest error among them."""
    finite = np.flatnonzero(np.isfinite(errors))
    order = finite[np.argsort(np.abs(errors[finite]), kind="stable")]
    if len(order) <= MOST_POINTS:
        return np.sort(order)
    return np.sort(order[np.linspace(0, len(order) - 1, MOST_POINTS).round().astype(int)])


def predicted_against_actual(name: str, values: np.ndarray, targets: np.ndarray, unfamiliar: np.ndarray) -> Markup:
    """One point a row; the line is where both are equal. ``unfamiliar``, bool (N,), has another colour."""

    def draw(axes: Axes) -> None:
        shown = drawn(values - targets)
        if len(shown):
            ends = _padded(np.concatenate([values[shown], targets[shown]]))
            axes.plot(ends, ends, color=INK, linewidth=1, linestyle=_DASHED, label="equal")
            axes.set(xlim=ends, ylim=ends)
        _scatter(axes, targets[shown], values[shown], unfamiliar[shown])
        axes.set(xlabel="actual", ylabel="predicted")

    return render(name, draw, HALF)


def errors_against_predicted(
    name: str, values: np.ndarray, errors: np.ndarray, half_width: float | None, unfamiliar: np.ndarray
) -> Markup:
    """One point a row, with the interval's ends."""

    def draw(axes: Axes) -> None:
        shown = drawn(errors)
        axes.axhline(0, color=INK, linewidth=1)
        for number, end in enumerate(() if half_width is None else (-half_width, half_width)):
            axes.axhline(end, color=MARK, linewidth=1.2, linestyle=_DASHED, label="interval" if number == 0 else None)
        _scatter(axes, values[shown], errors[shown], unfamiliar[shown])
        axes.set(xlabel="predicted", ylabel="error (predicted - actual)")
        if len(shown):
            axes.set_xlim(_padded(values[shown]))

    return render(name, draw, HALF)


def error_histogram(name: str, errors: np.ndarray, half_width: float | None) -> Markup:
    """How many rows have an error of each size; errors beyond the figure are counted in its outermost bars."""

    def draw(axes: Axes) -> None:
        finite = errors[np.isfinite(errors)]
        end = max(1.5 * float(np.quantile(np.abs(finite), 0.99)) if len(finite) else 0.0, 1.2 * (half_width or 0.0))
        end = end or 1.0
        axes.hist(np.clip(finite, -end, end), bins=np.linspace(-end, end, _BINS + 1).tolist(), color=FIRST, rwidth=0.92)
        axes.axvline(0, color=INK, linewidth=1)
        for number, side in enumerate(() if half_width is None else (-half_width, half_width)):
            axes.axvline(side, color=MARK, linewidth=1.2, linestyle=_DASHED, label="interval" if number == 0 else None)
        axes.set(xlabel="error (predicted - actual)", ylabel="rows", xlim=(-end, end))

    return render(name, draw, HALF)


def coverage_by_part(name: str, parts: Sequence[Part], level: float) -> Markup:
    """The share of intervals that contain the truth in each part of the rows, with its confidence interval."""

    def draw(axes: Axes) -> None:
        axes.axhline(level, color=INK, linewidth=1, linestyle=_DASHED, label=f"wanted ({100 * level:g} %)")
        for number, part in enumerate(parts):
            if part.coverage is None or part.interval is None:
                continue
            axes.plot([number, number], part.interval, color=FIRST, linewidth=2)
            axes.plot(
                [number],
                [part.coverage],
                color=FIRST,
                marker="o",
                markersize=8,
                linestyle="none",
                label="coverage, with its 95 % confidence interval" if number == 0 else None,
            )
        names = [str(number) for number in range(1, len(parts) + 1)]
        if len(parts) > 1:
            names[0], names[-1] = f"{names[0]}: lowest answers", f"{names[-1]}: highest answers"
        axes.set_xticks(range(len(parts)), names)
        axes.set(xlim=(-0.5, len(parts) - 0.5))
        axes.set_ylim(top=1.02)
        percent(axes, "y")

    return render(name, draw, HALF)


def _scatter(axes: Axes, x: np.ndarray, y: np.ndarray, unfamiliar: np.ndarray) -> None:
    few = len(x) < 300
    for chosen, color, marker, label in ((~unfamiliar, FIRST, "o", "row"), (unfamiliar, SECOND, "D", "unfamiliar row")):
        if chosen.any():
            axes.scatter(
                x[chosen],
                y[chosen],
                s=20 if few else 10,
                color=color,
                marker=marker,
                alpha=0.7 if few else 0.45,
                linewidths=0,
                label=label,
            )


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis around values; one value alone has room on both sides."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin
