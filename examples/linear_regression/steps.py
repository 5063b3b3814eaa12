"""The steps of the example, and what it says of them."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import marquee
from examples.linear_regression import as_printed, corrected, data
from examples.linear_regression.closed_form import closed_form, largest_difference, read_rows, rmse

ALLOWED = 1e-6
"""Largest relative difference between gradient descent with a stop condition and the closed form."""


def run(work: Path) -> dict[str, Any]:
    """Runs all steps.

    Args:
        work: folder for tables, runs and archives.

    Returns:
        What was measured.

    Raises:
        OperationError: ``work`` is not empty, or a step failed.
        TrainingError: a model could not be trained.
    """
    started = time.monotonic()
    if work.exists() and any(work.iterdir()):
        raise marquee.OperationError(f"{work}: is not empty; choose another --work")
    logging.getLogger("marquee").setLevel(logging.WARNING)  # the example has its own words
    say("1/5 as printed")
    printed = show_as_printed()
    say(f"2/5 corrected: {data.ROWS} such rows, {as_printed.EPOCHS:,} epochs at the rate {as_printed.RATE}")
    table = write_corrected(work)
    score = corrected.train(table, work / "run", **corrected.AS_THE_SCRIPT)
    say(f"    RMSE of {score['rows']} test rows: {score['rmse']:.2g}")
    say("3/5 the same on scikit-learn's diabetes data, then at a rate and with a stop that follow from the data")
    table = data.write_table(work / "diabetes.csv", *data.diabetes())
    few = corrected.train(table, work / "diabetes-1000", **corrected.AS_THE_SCRIPT)
    corrected.train(table, work / "diabetes")
    say("4/5 saved, served by TorchServe, asked over HTTP, stopped")
    answers, stopped = serve_and_ask(work)
    say("5/5 compared with the closed form, np.linalg.lstsq on the training rows")
    compared = compare(work / "diabetes", stopped)
    say(f"    RMSE after {as_printed.EPOCHS:,} epochs at the rate {as_printed.RATE}: {few['rmse']:.6f}")
    return {
        **printed,
        "corrected_rmse": score["rmse"],
        "largest_served_error": float(np.abs(answers - data.target_of(data.PRINTED)).max()),
        "diabetes_rmse_1000_epochs": few["rmse"],
        **compared,
        "seconds": round(time.monotonic() - started, 1),
    }


def show_as_printed() -> dict[str, Any]:
    """Cleans, scales and descends as the script does, and says what becomes of the numbers."""
    features, target = data.PRINTED, data.target_of(data.PRINTED)
    cleaned = as_printed.clean(features)
    scaled = as_printed.normalise(cleaned)
    weights, losses = as_printed.descend(scaled, target)
    say(f"    {len(features)} rows of numbers between 0 and 1; y is their sum")
    for row, y in zip(features, target, strict=True):
        say(f"      {'  '.join(f'{cell:.2f}' for cell in row)}  y = {y:.2f}")
    zeros, nans = int((cleaned == 0).sum()), int(np.isnan(scaled).sum())
    say(f"    np.where(X > 1, X, 0) keeps what is above 1: {zeros} of {features.size} values are 0 now")
    say(f"    a column of zeros has mean 0 and deviation 0, and (0 - 0) / 0 is NaN: {nans} of {scaled.size} values")
    say(f"    the loss is {losses[0]} in the first epoch, and the weights are {weights} after {len(losses):,}")
    return {"printed_values": int(scaled.size), "printed_nan_values": nans}


def write_corrected(work: Path) -> Path:
    """The table of the corrected way."""
    features = data.more_rows()
    kept, target = corrected.clean(features, data.target_of(features))
    say(f"    {len(kept)} of {len(features)} rows kept: all values are finite")
    return data.write_table(work / "table.csv", ["x1", "x2"], kept, target)


def serve_and_ask(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Serves both models; returns the answers to the printed rows, and to the test rows of diabetes."""
    store = work / "model_store"
    marquee.package(work / "run", "printed", store=store)
    marquee.package(work / "diabetes", "diabetes", store=store)
    with marquee.serve("printed", "diabetes", store=store, port=0, folder=work / "server") as service:
        say(f"    {service.url}: {service.checked} golden answers equal")
        client = service.client()
        answers = corrected.ask(client, "printed", data.PRINTED.tolist())
        stopped = corrected.ask(client, "diabetes", read_rows(work / "diabetes", "test").cells)
    for row, answer in zip(data.PRINTED, answers, strict=True):
        say(f"      {' + '.join(f'{cell:.2f}' for cell in row)}: {answer:.6f}")
    return answers, stopped


def compare(run: Path, served: np.ndarray) -> dict[str, float]:
    """Compares served answers to a run's test rows with the closed form's.

    Raises:
        OperationError: they differ.
    """
    expected, target = closed_form(run), read_rows(run, "test").target
    difference = largest_difference(served, expected)
    say(f"    RMSE of the closed form: {rmse(expected, target):.6f}, of the served model: {rmse(served, target):.6f}")
    say(f"    largest relative difference of {len(served)} answers: {difference:.1e} (at most {ALLOWED:.0e})")
    if not difference <= ALLOWED:
        raise marquee.OperationError(f"gradient descent differs from the closed form by {difference:.1e}")
    return {
        "diabetes_rmse": rmse(served, target),
        "closed_form_rmse": rmse(expected, target),
        "largest_relative_difference": difference,
    }


def say(line: str) -> None:
    """Shows a line to the user."""
    print(f"== {line}" if line[:1] != " " else line, file=sys.stderr, flush=True)
