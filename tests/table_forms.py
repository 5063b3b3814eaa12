"""Small tables with cells of every kind, and the same rows in every form that a server reads."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
"""Name of a column -> cell: a float, str, bool or date; None is a missing value."""

FEATURES = ("floor area", "rooms", "town", "built", "garden", "energy")
"""Of the houses, in the order of the table."""
TARGET = "price"
LABEL = "species"
"""Of the flowers."""
TOWNS = ("Aachen", "Bad Tölz", 'Sankt "Veit", Au', "Am\nSee")
"""Some need quotes in CSV, and one a quoted newline."""
_PRICES = dict(zip(TOWNS, (0.0, 40.0, 15.0, 90.0), strict=True))


def houses(count: int = 240, seed: int = 0) -> list[Row]:
    """Houses and their prices: numbers, one of them with missing values, a category, a date and a boolean."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        area, rooms = round(float(rng.uniform(40, 200)), 2), int(rng.integers(1, 8))
        town, garden = TOWNS[number % len(TOWNS)], bool(rng.integers(2))
        built = date(1950, 1, 1) + timedelta(days=int(rng.integers(0, 25_000)))
        energy = None if number % 7 == 3 else round(float(rng.uniform(20, 300)), 1)
        price = 2 * area + 10 * rooms + _PRICES[town] + 25 * garden + built.toordinal() / 1_000 - 0.1 * (energy or 160)
        cells = (area, rooms, town, built, garden, energy, round(price + float(rng.normal(0, 5)), 3))
        rows.append(dict(zip((*FEATURES, TARGET), cells, strict=True)))
    return rows


def flowers(count: int = 180, seed: int = 1) -> list[Row]:
    """Flowers of three species, which are told apart by two numbers and a colour."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        kind = number % 3
        length, width = (round(float(rng.normal(mean, 0.3)), 3) for mean in (2 + kind, 5 - kind))
        rows.append(
            {"length": length, "width": width, "colour": "rwb"[(kind + number % 2) % 3], "species": "abc"[kind]}
        )
    return rows


def features(rows: Iterable[Row]) -> list[Row]:
    """The rows without their target."""
    return [{name: cell for name, cell in row.items() if name not in (TARGET, LABEL)} for row in rows]


def make_models(folder: Path, script: Callable[..., Any]) -> None:
    """Writes ``houses.csv``, ``more.csv``, which has other houses, and ``flowers.csv``; trains a model of each kind.

    Args:
        folder: gets the data, ``runs/`` and ``store/`` with the archives ``houses`` and ``flowers``.
        script: the fixture.
    """
    write_csv(folder / "houses.csv", houses())
    write_csv(folder / "more.csv", houses(60, seed=7))
    write_csv(folder / "flowers.csv", flowers())
    for name, task, target in (("houses", "regression", TARGET), ("flowers", "classification", LABEL)):
        run = folder / "runs" / name
        arguments = ["--no-report", "--data", folder / f"{name}.csv", "--target", target, "--out", run]
        if task == "classification":
            arguments += ["--loop.epochs", 60]
        script("train", "--task", f"tabular-{task}", *arguments)
        script("package", run, "--name", name, "--store", folder / "store")


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Writes the rows with a header."""
    path.write_bytes(as_csv(rows))
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    """Writes the rows in columns that have their types."""
    path.write_bytes(as_parquet(rows))
    return path


def as_csv(rows: Iterable[Row], header: bool = True, separator: str = ",", decimal: str = ".") -> bytes:
    """CSV in UTF-8; a missing value is an empty cell."""
    rows, stream = list(rows), io.StringIO()
    writer = csv.writer(stream, delimiter=separator, lineterminator="\n")
    if header:
        writer.writerow(rows[0])
    writer.writerows([_text(cell, decimal) for cell in row.values()] for row in rows)
    return stream.getvalue().encode()


def _text(cell: Any, decimal: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, date):
        return cell.isoformat()
    return str(cell).replace(".", decimal) if isinstance(cell, float) else str(cell)


def as_parquet(rows: Sequence[Row]) -> bytes:
    """Parquet, with types as pyarrow infers them."""
    import pyarrow
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: [row[name] for row in rows] for name in rows[0]}), sink)
    return sink.getvalue()


def jsonable(row: Row) -> Row:
    """The row with its date as a text."""
    return {name: cell.isoformat() if isinstance(cell, date) else cell for name, cell in row.items()}


def _dump(document: Any) -> bytes:
    return json.dumps(document).encode()


def _lists(rows: Sequence[Row]) -> list[list[Any]]:
    return [list(jsonable(row).values()) for row in rows]


def _objects(rows: Sequence[Row]) -> list[Row]:
    return [jsonable(row) for row in rows]


def _sparse(rows: Sequence[Row]) -> list[Row]:
    """Objects in another order, without the cells that have no value."""
    return [{name: cell for name, cell in reversed(row.items()) if cell is not None} for row in _objects(rows)]


JSON, CSV, ANY = "application/json", "text/csv", "application/octet-stream"

FORMS: dict[str, tuple[str, Callable[[Sequence[Row]], bytes]]] = {
    "lists": (JSON, lambda rows: _dump(_lists(rows))),
    "objects": (JSON, lambda rows: _dump(_objects(rows))),
    "sparse objects": (JSON, lambda rows: _dump(_sparse(rows))),
    "lists and objects": (JSON, lambda rows: _dump(_lists(rows[:2]) + _objects(rows[2:]))),
    "octets of JSON": (ANY, lambda rows: _dump(_objects(rows))),
    "text of JSON": ("text/plain", lambda rows: _dump(_objects(rows))),
    "instances of lists": (JSON, lambda rows: _dump({"instances": _lists(rows)})),
    "instances of objects": (JSON, lambda rows: _dump({"instances": _objects(rows)})),
    "inputs of rows": (JSON, lambda rows: _dump({"inputs": _objects(rows)})),
    "inputs of columns": (JSON, lambda rows: _dump({"inputs": _columns(_objects(rows))})),
    "dataframe_split": (JSON, lambda rows: _dump({"dataframe_split": _split(_objects(rows))})),
    "dataframe_records": (JSON, lambda rows: _dump({"dataframe_records": _objects(rows)})),
    "JSON lines": (ANY, lambda rows: b"\n".join(map(_dump, _objects(rows))) + b"\n"),
    "JSON lines of lists": ("application/x-ndjson", lambda rows: b"\n".join(map(_dump, _lists(rows)))),
    "CSV": (CSV, as_csv),
    "octets of CSV": (ANY, as_csv),
    "CSV with \\r\\n": (CSV, lambda rows: as_csv(rows).replace(b"\n", b"\r\n").replace(b"Am\r\n", b"Am\n")),
    "CSV without a header": (CSV, lambda rows: as_csv(rows, header=False)),
    "octets of CSV without a header": (ANY, lambda rows: as_csv(rows, header=False)),
    "CSV with semicolons and decimal commas": (ANY, lambda rows: as_csv(rows, separator=";", decimal=",")),
    "CSV in UTF-16": (ANY, lambda rows: as_csv(rows).decode().encode("utf-16")),
    "Parquet": ("application/vnd.apache.parquet", as_parquet),
    "octets of Parquet": (ANY, as_parquet),
}
"""Name of a form -> content type, and rows of features -> body; the answer to each is a list."""


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _split(rows: Sequence[Row]) -> dict[str, Any]:
    return {"columns": list(rows[0]), "index": list(range(len(rows))), "data": [list(row.values()) for row in rows]}
