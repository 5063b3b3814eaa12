"""One linear regression on penguins behind TorchServe and behind FastAPI: requests a second, latency, 10,000 rows.

This project's archive, and scikit-learn's ColumnTransformer and Ridge behind FastAPI on uvicorn, get the same rows as
{"instances": [{column: value}, ...]}. In every round each contender is started, must give the right answers, is warmed,
loaded by the generator of marquee tune, and stopped; two never run at once.

Example: python -m benchmarks.tabular.serving

Writes RESULTS/serving.json after each round; then run: python -m benchmarks.render
"""

import json
import shutil
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, WORK, main, tell
from benchmarks.results import Series, Values, add, origin, write_result
from benchmarks.serving.processes import ContenderError, cpu_seconds, is_alive, last_line, memory, other_seconds
from benchmarks.tabular.contenders import CONTENDERS, FASTAPI, Running, Site
from benchmarks.tabular.datasets import Table, load_table
from benchmarks.tabular.scikit import matrix, ridge
from benchmarks.training.runs import train
from marquee.serving.archive import package
from marquee.serving.tuning.load import closed_loop
from marquee.training.core.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "tabular" / "results"
LOADS: dict[str, tuple[int, int]] = {"row@16": (1, 16), "row@1": (1, 1), "table@1": (10_000, 1)}
"""Load -> rows of a request, clients."""
_START_SECONDS = 120
_POLL_SECONDS = 0.1
_BODIES = 64
_AGREEMENT = 0.05
"""How far an answer may be from that of Ridge in this process, as a share of the target's range: this project's linear
regression has no penalty, and trains on fewer rows."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Arguments."""

    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Names."""
    rounds: int = 5
    """How often every contender has its turn."""
    seconds: float = 3.0
    """Of each load."""
    warmup: float = 8.0
    """Seconds of load before the first that counts; a Java front end needs some to compile itself."""
    work: Path = WORK / "tabular" / "serving"
    """Folder for the model, logs and archives."""
    results: Path = RESULTS
    """Folder of the result file."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: expected at least 1, got {self.rounds}")
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(CONTENDERS)}")


def measure(settings: Serving) -> Path:
    """Runs all rounds and returns the result file.

    Raises:
        TrainingError: a contender does not start, or gives other answers.
    """
    if missing := [name for name in ("fastapi", "uvicorn") if not _version(name)]:
        raise TrainingError(f"{missing[0]} is not installed: pip install -r benchmarks/requirements.txt")
    source, site, series = origin("serving"), Site(work=settings.work.absolute()), Series()
    table = load_table("penguins")
    make_archive(table, site)
    asked = bodies(table)
    for number in range(1, settings.rounds + 1):
        for name in settings.contenders:
            tell(f"round {number} of {settings.rounds}: {name}")
            add(series, name, take_turn(name, site, table, asked, settings))
        described = {
            "data": "penguins",
            "loads": {load: {"rows": rows, "clients": clients} for load, (rows, clients) in LOADS.items()},
            "body_bytes": {load: len(contents[0]) for load, contents in asked.items()},
            "seconds": settings.seconds,
            "warmup": settings.warmup,
            "versions": {name: _version(name) for name in ("torchserve", "fastapi", "uvicorn", "scikit-learn")},
        }
        # After every round: what an interruption leaves is a result of fewer rounds.
        path = write_result(settings.results, source, described, series, FASTAPI)
    return path


def make_archive(table: Table, site: Site) -> None:
    """Trains a linear regression on the table and packages it."""
    shutil.rmtree(site.work, ignore_errors=True)
    table.write(site.data)
    options = ["--task", "tabular-regression", "--table.target", table.target, "--split.test", "0"]
    train(site.data, site.run, options)
    package(site.run / "bundle", site.archive, "1.0", site.store)


def bodies(table: Table) -> dict[str, list[bytes]]:
    """Load -> the bodies that are sent in turn: rows of the table, again and again."""
    rows, found = as_json(table), {}
    for load, (count, _) in LOADS.items():
        starts = range(_BODIES if count == 1 else 1)
        found[load] = [_body([rows[(start + number) % len(rows)] for number in range(count)]) for start in starts]
    return found


def take_turn(name: str, site: Site, table: Table, asked: dict[str, list[bytes]], settings: Serving) -> Values:
    """The values of one turn of a contender: of each load, and of the whole.

    Raises:
        ContenderError: it does not start, or gives other answers.
    """
    begin = time.monotonic()
    try:
        with CONTENDERS[name](site) as running:
            _wait(running, asked["row@1"][0], begin + _START_SECONDS)
            values = {"start_seconds": time.monotonic() - begin}
            for load in ("row@1", "table@1"):
                _check(running, asked[load][0], table)
            closed_loop(running.endpoint(), asked["row@16"], 16, settings.warmup)
            for load, (rows, clients) in LOADS.items():
                if rows > 1:
                    closed_loop(running.endpoint(), asked[load], clients, settings.warmup / 4)
                measured = _load(running, asked[load], clients, settings.seconds)
                values |= {f"{load}/{metric}": value for metric, value in measured.items()}
                tell(f"{name}  {load}  " + "  ".join(f"{metric} {one:.1f}" for metric, one in measured.items()))
            return {**values, **memory(running.process)}
    except ContenderError as error:
        said = f"; its log ends with: {last_line(site.log(name))}" if site.log(name).is_file() else ""
        raise ContenderError(f"{name}: {error}{said}") from error


def _wait(running: Running, body: bytes, deadline: float) -> None:
    while True:
        try:
            running.ask(body)
            return
        except ContenderError as error:
            if not is_alive(running.process):
                raise ContenderError("it ended before its first answer") from error
            if time.monotonic() > deadline:
                raise ContenderError(f"no answer within {_START_SECONDS} s of its start ({error})") from error
        time.sleep(_POLL_SECONDS)


def _check(running: Running, body: bytes, table: Table) -> None:
    """A contender that is fast because it answers something else is none."""
    answers = np.array(running.ask(body), np.float64)
    values, columns, _ = matrix(table)
    expected = ridge(columns).fit(values, table.targets).predict(values)
    rows = len(json.loads(body)["instances"])
    if answers.shape != (rows,):
        raise ContenderError(f"expected {rows} numbers, got an array of the shape {answers.shape}")
    difference = np.abs(answers - expected[np.arange(rows) % len(table)]).max() / np.ptp(table.targets)
    if not difference <= _AGREEMENT:
        raise ContenderError(f"an answer differs from Ridge's by {difference:.3f} of the target's range")


def _load(running: Running, contents: list[bytes], clients: int, seconds: float) -> Values:
    begin, used, others = time.monotonic(), cpu_seconds(running.process), other_seconds(running.process)
    load = closed_loop(running.endpoint(), contents, clients, seconds)
    took = time.monotonic() - begin
    latencies = load.latencies.get(200, np.zeros(0))
    if not len(latencies):
        raise ContenderError(f"no answer in {seconds} s of load")
    p50, p99 = 1e3 * np.percentile(latencies, (50, 99))
    return {
        # Until the last answer: of slow answers, one more or less would count if it ended before.
        "requests_per_second": len(latencies) / took,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "cpu_ms": 1e3 * (cpu_seconds(running.process) - used) / len(latencies),
        "errors": float(load.errors + load.rejected),
        "other_cores": max(0.0, (other_seconds(running.process) - others) / took),
    }


def as_json(table: Table) -> list[dict[str, Any]]:
    """The rows as a client would send them: whole numbers without a point, missing values as null."""
    values, (numbers, _), names = matrix(table)

    def cell(value: Any, is_number: bool) -> Any:
        if is_number:
            return None if np.isnan(value) else int(value) if value == int(value) else value
        return value or None

    return [
        {name: cell(value, position in numbers) for position, (name, value) in enumerate(zip(names, row, strict=True))}
        for row in values.tolist()
    ]


def _body(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def _version(package_name: str) -> str:
    try:
        return metadata.version(package_name)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main(measure, Serving, __doc__)
