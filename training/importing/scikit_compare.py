"""Compares a converted estimator with scikit-learn itself."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marquee.handlers.outputs.classification import softmax
from marquee.training.core.errors import ExportError, TrainingError
from marquee.training.importing.scikit_columns import by_position
from marquee.training.importing.scikit_config import TableImportConfig
from marquee.training.tasks.tabular.manifest import Record

TOLERANCE = 1e-9
"""Largest difference from scikit-learn: of a number relative to it, or to the mean magnitude of all if that is larger;
of a probability absolute."""


def ask(config: TableImportConfig, estimator: Any, matrix: np.ndarray, classes: bool) -> np.ndarray:
    """Scikit-learn's own answers: numbers, float64 (N,), or probabilities, float64 (N, labels).

    Args:
        config: file names for messages.
        estimator: its choice of columns is changed, so that it takes an array whatever it was fitted on.
        matrix: the rows, (N, columns).
        classes: whether it predicts classes.

    Raises:
        TrainingError: it cannot predict them.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # that the array has no names, or has unknown categories
            by_position(estimator)
            answers = np.asarray(estimator.predict_proba(matrix) if classes else estimator.predict(matrix), np.float64)
    except Exception as error:
        # Whatever scikit-learn raises for these rows.
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(
            f"{config.data}: scikit-learn cannot predict its rows with {config.model}: {reason}"
        ) from error
    if not np.isfinite(answers).all():
        raise TrainingError(f"{config.data}: {config.model} predicts numbers that are not finite for some of its rows")
    return answers if classes else answers.reshape(len(matrix))


def answers_of(outputs: np.ndarray) -> np.ndarray:
    """Numbers as they are; the probabilities of logits, at temperature 1."""
    return softmax(outputs) if outputs.ndim == 2 else outputs


def check_equal(path: Path, records: Sequence[Record], answers: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference from scikit-learn's answers.

    Args:
        path: of the estimator, for messages.
        records: the rows.
        answers: numbers (N,) or probabilities (N, labels).
        expected: scikit-learn's.

    Raises:
        ExportError: it exceeds :data:`TOLERANCE`; the message names the row.
    """
    if answers.shape != expected.shape:
        raise ExportError(f"{path}: answers of shape {answers.shape}, scikit-learn's have the shape {expected.shape}")
    size = 1.0 if expected.ndim == 2 else np.maximum(np.abs(expected), max(np.abs(expected).mean(), 1e-300))
    apart = np.abs(answers - expected) / size
    if not (apart <= TOLERANCE).all():
        row = int(np.unravel_index(np.nan_to_num(apart, nan=np.inf).argmax(), apart.shape)[0])
        raise ExportError(
            f"{path}: its conversion differs from scikit-learn by {apart[row].max():.2g} in {records[row].path} "
            f"(tolerance {TOLERANCE:g}): {answers[row]} instead of {expected[row]}; it cannot be imported"
        )
    return float(apart.max())
