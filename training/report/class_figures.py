"""Figures about the answers of a classifier."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from marquee.training.report.figures import FIRST, HALF, INK, MARK, MOST_POINTS, SECOND, WIDE, percent, render

Bins = Sequence[dict[str, float]]
"""From :func:`marquee.training.tasks.classification.metrics.reliability`."""


def reliability_diagram(name: str, served: Bins, before: Bins | None) -> Markup:
    """Accuracy over confidence, larger points for more images; ``before``: at temperature 1, if another is served."""

    def draw(axes: Axes) -> None:
        axes.bar(
            [item["lower"] for item in served],
            [item["accuracy"] for item in served],
            width=[item["upper"] - item["lower"] - 0.006 for item in served],
            align="edge",
            color=FIRST,
            alpha=0.35,
        )
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        if before is not None:
            axes.scatter(*_points(before), s=_areas(before), color=SECOND, marker="s", alpha=0.8, label="temperature 1")
        axes.scatter(*_points(served), s=_areas(served), color=FIRST, label="as served")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        percent(axes, "both")

    return render(name, draw, HALF)


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
            color=[FIRST, SECOND],
            label=list(groups),
            rwidth=0.9,
        )
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="share of the right or wrong answers")
        percent(axes, "both")

    return render(name, draw, HALF)


def coverage(name: str, shares: np.ndarray, errors: np.ndarray, abstain: tuple[float, float] | None) -> Markup:
    """Error among accepted answers over their share; ``abstain`` is the point (share, error) of the served limit."""

    def draw(axes: Axes) -> None:
        # A point for each of many thousand images would make the page heavy and look the same.
        shown = np.unique(np.linspace(0, len(shares) - 1, MOST_POINTS).round().astype(int))
        axes.plot(
            shares[shown], errors[shown], color=FIRST, drawstyle="steps-post", label="error among accepted answers"
        )
        if abstain is not None:
            axes.plot(*abstain, color=MARK, marker="D", markersize=8, linestyle="none", label="abstention threshold")
        axes.set(xlim=(0, 1.01), xlabel="accepted answers", ylabel="error")
        axes.set_ylim(0, max(0.01, float(errors.max()) * 1.15))
        percent(axes, "both")

    return render(name, draw, WIDE)


def _points(bins: Bins) -> tuple[list[float], list[float]]:
    return [item["confidence"] for item in bins], [item["accuracy"] for item in bins]


def _areas(bins: Bins) -> list[float]:
    """Areas of the points, in square points of print: a bin of two images must not look like one of two hundred."""
    largest = max(item["count"] for item in bins)
    return [10 + 110 * item["count"] / largest for item in bins]
