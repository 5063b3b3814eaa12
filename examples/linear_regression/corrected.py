"""The same way with Marquee: every finite number is kept, and a column without variation is not divided by zero."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import marquee
from examples.linear_regression.as_printed import EPOCHS, RATE

PASSES = 100
"""Passes over the rows in what Marquee calls an epoch: validation and a checkpoint follow each."""
AS_THE_SCRIPT: dict[str, Any] = {
    "optimizer": {"name": "sgd", "lr": RATE, "momentum": 0.0, "schedule": "constant"},
    "loop": {"batch_size": -1, "epochs": EPOCHS // PASSES, "passes": PASSES, "gradient_tolerance": 0.0},
}
"""Plain gradient descent on all rows, at the script's rate, for the script's number of passes."""


def clean(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drops the rows that have a value that is no number; a small number is one."""
    good = np.isfinite(features).all(axis=1) & np.isfinite(target)
    return features[good], target[good]


def train(table: Path, run: Path, **settings: Any) -> dict[str, Any]:
    """Trains a linear regression of the column ``y``; returns the metrics of the test rows.

    The mean and the deviation of each column are those of the training rows, and part of the exported model. Answers
    are not clipped to the range of the targets, so that they are those of the linear function everywhere.

    Raises:
        TrainingError: the run cannot be trained.
        KeyboardInterrupt: Ctrl-C; the run could be resumed, but the example begins anew.
    """
    from marquee.training.core.loop import Interrupted  # torch takes seconds to import, and is not needed before

    try:
        return marquee.train(
            table, run, task="tabular-regression", table={"target": "y"}, export={"clip": False}, **settings
        )
    except marquee.TrainingError as error:
        if isinstance(error.__cause__, Interrupted):
            raise KeyboardInterrupt from error
        raise


def ask(client: marquee.Client, name: str, rows: Sequence[Any]) -> np.ndarray:
    """The values that the server answers, over HTTP.

    Args:
        client: of the server.
        name: of the model.
        rows: lists of cells, or objects of column names.

    Raises:
        OperationError: the server refused a row.
    """
    answer = client.predict(name, json.dumps(rows).encode(), "application/json")
    if answer.error is not None:
        raise marquee.OperationError(f"{name}: {answer.error}")
    refused = [prediction["error"]["message"] for prediction in answer.body["predictions"] if "error" in prediction]
    if refused:
        raise marquee.OperationError(f"{name}: {refused[0]}")
    return np.array([prediction["value"] for prediction in answer.body["predictions"]])
