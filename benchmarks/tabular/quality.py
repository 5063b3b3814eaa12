"""RMSE of five folds beside scikit-learn's Ridge and HistGradientBoostingRegressor, on the same rows.

The folds are KFold(5, shuffle=True, random_state=0). In each, marquee train gets the other four fifths as CSV and takes
its own validation rows from them; marquee evaluate measures the bundle on the rows that were held out.

Example: python -m benchmarks.tabular.quality --data penguins

To choose settings, add --tune and options of marquee train. The rows that are held out are then not written at all, and
the mean RMSE is that of 15 % of the others, which neither train the model nor choose its best epoch:

python -m benchmarks.tabular.quality --data cars --tune --seeds 3 --model.name mlp --optimizer.lr 2e-3

Folds that are done are kept; an interrupted benchmark goes on.
"""

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import tyro
from sklearn.model_selection import KFold

from benchmarks import ROOT, WORK, program, tell
from benchmarks.results import Series, Values, add, kept, origin, write_result
from benchmarks.tabular.datasets import Name, Table, load_table
from benchmarks.tabular.scikit import ESTIMATORS, matrix, rmse
from benchmarks.training.runs import flags, run_json, train
from marquee.commands.cli import run

RESULTS = ROOT / "benchmarks" / "tabular" / "results"
FOLDS = 5
_COMMON: dict[str, object] = {"task": "tabular-regression", "split.test": 0}
_LINEAR: dict[str, object] = {"model.name": "linear"}
SETTINGS: dict[Name, dict[str, dict[str, object]]] = {
    "diabetes": {
        "marquee linear": _LINEAR,
        "marquee linear, l2": {**_LINEAR, "loss.l2": 0.1, "split.val": 0.1},
        "marquee tabm": {"model.name": "tabm", "model.width": 64, "model.depth": 1},
    },
    "penguins": {"marquee linear": _LINEAR},
    "cars": {
        "marquee linear": _LINEAR,
        "marquee mlp": {"model.name": "mlp"},
        "marquee tabm": {
            "model.name": "tabm",
            "model.width": 128,
            "model.depth": 2,
            "optimizer.lr": 2e-3,
            "loop.batch_size": 32,
        },
    },
    "diamonds": {
        "marquee linear": _LINEAR,
        "marquee mlp": {"model.name": "mlp", "optimizer.lr": 2e-3, "loop.batch_size": 512, "loop.epochs": 30},
    },
}
"""Data set -> contender -> its options of marquee train; all others have their defaults."""
WANTED: dict[Name, float] = {"diabetes": 54.5, "penguins": 297.0, "cars": 2.73, "diamonds": 573.0}
"""Data set -> the largest mean RMSE that meets the goal."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Arguments."""

    data: Name = "diabetes"
    """Data set."""
    tune: bool = False
    """Measure the settings that follow without the rows that are held out; nothing is written to the results."""
    seeds: int = 1
    """With --tune: runs of each fold, each with other splits and weights."""
    work: Path = WORK / "tabular"
    """Folder for data, runs and kept values."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds: expected at least 1, got {self.seeds}")


def folds(table: Table) -> list[tuple[np.ndarray, np.ndarray]]:
    """The numbers of the rows of each fold: those to train on, and those that are held out."""
    return list(KFold(FOLDS, shuffle=True, random_state=0).split(np.arange(len(table))))


def measure(settings: Quality) -> Path:
    """Measures every contender on every fold and returns the result file.

    Raises:
        TrainingError: a run failed, or what is kept in the work folder is of other settings.
    """
    name = f"quality_{settings.data}"
    table, source, work = load_table(settings.data), origin(name), settings.work.absolute() / name
    own, series = SETTINGS[settings.data], Series()
    for number, (rows, held_out) in enumerate(folds(table)):
        for contender in (*ESTIMATORS, *own):
            if contender in own:
                used = {**_COMMON, **own[contender], "table.target": table.target}
                compute = partial(_marquee, used, table, rows, held_out, work / f"{_stem(contender)}-{number}")
            else:
                used, compute = {}, partial(_scikit, contender, table, rows, held_out)
            values = kept(work / "kept" / f"{_stem(contender)}-{number}.json", used, compute)
            add(series, contender, values)
            tell(f"fold {number + 1}/{FOLDS}  {contender:34s} RMSE {values['rmse']:.5g}, {values['seconds']:.1f} s")
    described = {
        "data": settings.data,
        "rows": len(table),
        "source": table.source,
        "contenders": own,
        "wanted": WANTED[settings.data],
        "versions": {package: metadata.version(package) for package in ("scikit-learn", "tabm")},
    }
    return write_result(settings.results, source, described, series, next(iter(ESTIMATORS)))


def tune(settings: Quality, extra: Sequence[str]) -> float:
    """The mean RMSE on test rows of the runs themselves, over all folds and seeds; the rows held out are not used."""
    table, out = load_table(settings.data), settings.work.absolute() / f"tune_{settings.data}"
    scores: list[float] = []
    for number, (rows, _) in enumerate(folds(table)):
        data = table.write(out / f"{number}.csv", rows)
        for seed in range(settings.seeds):
            run_folder = _emptied(out / "run")
            used = {**_COMMON, "split.test": 0.15, "table.target": table.target, "loop.seed": seed}
            scores.append(train(data, run_folder, [*flags(used), *extra])["rmse"])
            tell(f"fold {number + 1}/{FOLDS}, seed {seed}: RMSE {scores[-1]:.5g}")
    return statistics.mean(scores)


def _marquee(used: Mapping[str, object], table: Table, rows: np.ndarray, held_out: np.ndarray, work: Path) -> Values:
    """RMSE on the rows that are held out, and the seconds of the command that trains."""
    out = _emptied(work)
    data, unseen = table.write(out / "train.csv", rows), table.write(out / "held_out.csv", held_out)
    before = time.monotonic()
    train(data, out / "run", flags(used))
    seconds = time.monotonic() - before
    # A few rows of diamonds are in the table twice: --seen keeps those that training has met, as scikit-learn does.
    measured = run_json(["marquee", "evaluate", str(out / "run"), "--data", str(unseen), "--seen", "--json"])
    if measured["rows"] != len(held_out):
        raise ValueError(f"{unseen}: {measured['rows']} of {len(held_out)} rows were measured")
    return {"rmse": measured["rmse"], "seconds": seconds, "coverage": measured["coverage"]}


def _scikit(contender: str, table: Table, rows: np.ndarray, held_out: np.ndarray) -> Values:
    """RMSE on the rows that are held out, and the seconds that the fit takes in this process."""
    values, columns, _ = matrix(table)
    before = time.monotonic()
    model = ESTIMATORS[contender](columns).fit(values[rows], table.targets[rows])
    seconds = time.monotonic() - before
    return {"rmse": rmse(model.predict(values[held_out]), table.targets[held_out]), "seconds": seconds}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _stem(contender: str) -> str:
    return contender.replace(",", "").replace(" ", "-")


def main() -> None:
    """Entry point."""
    settings, extra = tyro.cli(Quality, prog=program(), description=__doc__, return_unknown_args=True)
    if settings.tune:
        print(tune(settings, extra))
    elif extra:
        raise ValueError(f"{' '.join(extra)}: only --tune takes options of marquee train; the others are in SETTINGS")
    else:
        print(measure(settings))


if __name__ == "__main__":
    run(main)
