"""What a variant's answers are worth against those of the bundle's first variant, and whether it may be served."""

from dataclasses import dataclass

import numpy as np

from .measurement import Measurement

_Z = 1.959964  # 95 %, two-sided
ENOUGH_ITEMS = 30
"""With fewer labelled items nothing is said about the quality of answers."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the quality of a model's answers is called, and how a loss of it is judged."""

    name: str = "accuracy"
    """What :attr:`Measurement.accuracy` holds: the mean score of the answers."""
    unit: str = "images"
    """Plural noun for items."""
    graded: bool = False
    """Whether the score of an answer is any number; otherwise it is 1 for a right answer and 0 for a wrong one."""


DEFAULT_QUALITY = Quality()


@dataclass(frozen=True)
class Drop:
    """Loss of quality against the original, on the same items."""

    value: float
    """Positive when the variant is worse."""
    interval: tuple[float, float]
    """95 %, low and high."""


def paired_drop(before: np.ndarray, after: np.ndarray, effective: float | None = None) -> Drop:
    """Difference of two accuracies on the same images, with the adjusted Wald interval of Agresti and Min (2005).

    Only the images that one of the two gets right and the other wrong carry information; half an image is added to
    each of the four counts, so that a difference of none among few images is not taken for certain.

    Args:
        before: bool (N,), which answers of the original are right.
        after: bool (N,), of the variant.
        effective: how many independent images tell as much, where some belong together, such as those of a patient;
            None: each is on its own.
    """
    images = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    worth = 1.0 if effective is None else effective / images
    total = worth * images + 2
    lost_share, won_share = (worth * lost + 0.5) / total, (worth * won + 0.5) / total
    centre = lost_share - won_share
    spread = _Z * float(np.sqrt((lost_share + won_share - centre**2) / total))
    return Drop((lost - won) / images, (centre - spread, centre + spread))


def paired_difference(before: np.ndarray, after: np.ndarray, effective: float | None = None) -> Drop:
    """Difference of the mean scores of the same items, with its normal interval.

    Args:
        before: float64 (N,), scores of the original's answers; N is at least 2.
        after: float64 (N,), of the variant's.
        effective: see :func:`paired_drop`.
    """
    lost = before - after
    mean, spread = float(lost.mean()), _Z * float(lost.std(ddof=1)) / float(np.sqrt(effective or len(lost)))
    return Drop(mean, (mean - spread, mean + spread))


def can_show(max_drop: float, images: float) -> bool:
    """Whether a variant without any difference on so many images would be sure to lose at most ``max_drop``."""
    none = np.zeros(1, dtype=bool)
    return paired_drop(none, none, images).interval[1] <= max_drop


def accuracy_refusal(measured: Measurement, max_drop: float, quality: Quality = DEFAULT_QUALITY) -> str | None:
    """Why a variant's accuracy does not allow to serve it; None when it does.

    Args:
        measured: the variant.
        max_drop: quality that it may lose.
        quality: what the quality is. The interval of graded scores is narrow where the answers hardly differ, so few
            items do for it.
    """
    if measured.images < ENOUGH_ITEMS:
        return f"{measured.images} {quality.unit} are too few to judge it; at least {ENOUGH_ITEMS} are needed"
    if measured.drop is None or measured.drop_interval is None:
        lost = 1 - measured.agreement
        return f"{lost:.2%} of the answers differ, {max_drop:.2%} are allowed" if lost > max_drop else None
    if quality.graded or can_show(max_drop, measured.effective_images or measured.images):
        high = measured.drop_interval[1]
        return f"may lose {high:.2%} of the {quality.name}, {max_drop:.2%} are allowed" if high > max_drop else None
    if measured.drop > max_drop:
        return f"loses {measured.drop:.2%} of the {quality.name}, {max_drop:.2%} are allowed"
    return None
