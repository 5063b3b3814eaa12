"""Golden answers of models that give labels: stored by label, and compared with what a model or a server answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_DISTANCE_SLACK = 10
"""Tolerances by which a feature distance may differ, relative to its size: it sums up hundreds of features."""

Stored = Mapping[str, float] | Sequence[float]
"""Label -> probability. In bundles of earlier versions only the probabilities, in the order of the labels that the
same bundle's spec has: they show that the numbers are right, and not whose they are."""


def check_golden(expected: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Raises ValueError, TypeError or KeyError where a golden answer has not a probability for each label."""
    stored = expected["probabilities"]
    if isinstance(stored, Mapping):
        if other := set(stored) ^ set(labels):
            label = min(other)
            where = "the golden answers" if label in stored else "spec.json"
            raise ValueError(f"has probabilities for other labels than spec.json: {label!r:.80} is in {where} only")
        stored = [*stored.values()]
    if np.asarray(stored, dtype=np.float64).shape != (len(labels),):
        raise ValueError(f"has no probability for each of {len(labels)} labels")


def difference(
    expected: Mapping[str, Any], answer: Mapping[str, Any], labels: Sequence[str], tolerance: float
) -> str | None:
    """Compares an answer with the golden one.

    Args:
        expected: a golden answer.
        answer: the same of a prediction made here, or a prediction as a client got it.
        labels: of the bundle.
        tolerance: of the variant.

    Returns:
        None when equal, else a line that says what was expected and what came.
    """
    golden, got = _by_label(expected["probabilities"], labels), _by_likelihood(answer, labels)
    best, first = max(golden, key=golden.__getitem__), next(iter(got))
    apart = max(abs(probability - golden.get(label, np.inf)) for label, probability in got.items())
    # Two labels within the tolerance of each other may change places without any answer being wrong.
    same_label = golden.get(first, -1.0) >= golden[best] - tolerance
    if expected.get("unfamiliar") != answer.get("unfamiliar"):
        return f"expected unfamiliar {expected.get('unfamiliar')}, got {answer.get('unfamiliar')}"
    if same_label and apart <= tolerance:
        return _distance_difference(expected.get("distance"), answer.get("distance"), tolerance)
    return (
        f"expected {best!r} with probability {golden[best]:.6f}, got {first!r} with {got[first]:.6f} "
        f"(largest difference {apart:.2g}, tolerance {tolerance:.2g})"
    )


def _by_label(stored: Stored, labels: Sequence[str]) -> dict[str, float]:
    """Label -> probability."""
    if isinstance(stored, Mapping):
        return {label: float(probability) for label, probability in stored.items()}
    return dict(zip(labels, map(float, stored), strict=True))


def _by_likelihood(answer: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    """Label -> probability, the likeliest first: of all labels, or of those that a client got."""
    if "probabilities" not in answer:
        return {entry["label"]: entry["probability"] for entry in answer["ranking"]}
    return dict(sorted(_by_label(answer["probabilities"], labels).items(), key=lambda item: -item[1]))


def _distance_difference(expected: float | None, distance: float | None, tolerance: float) -> str | None:
    if expected is None:
        return None
    allowed = _DISTANCE_SLACK * tolerance * max(1.0, abs(expected))
    if distance is not None and abs(distance - expected) <= allowed:
        return None
    return f"expected the distance {expected:.6f}, got {distance} (tolerance {allowed:.2g})"
