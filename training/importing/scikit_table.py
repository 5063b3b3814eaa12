"""The table on which an imported estimator is verified: its schema, and its rows as the estimator takes them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from marquee.handlers.inputs.table.cells import RawTable
from marquee.handlers.inputs.table.names import nearest
from marquee.handlers.inputs.table.spec import Column, Kind, TableSpec
from marquee.handlers.inputs.table.values import category_text
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.rejected import Rejected
from marquee.training.importing.scikit_config import TableImportConfig
from marquee.training.importing.scikit_slots import Source
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest
from marquee.training.tasks.tabular.read import read_known, read_raw
from marquee.training.tasks.tabular.schema.infer import infer_schema
from marquee.training.tasks.tabular.schema.kinds import read_column
from marquee.training.tasks.tabular.schema.names import named
from marquee.training.tasks.tabular.schema.target import TaskKind
from marquee.training.tasks.tabular.split import assign_splits
from marquee.training.tasks.tabular.table_config import TableConfig

_LISTED = 12
"""Columns that a message names."""


@dataclass(frozen=True)
class GivenTable:
    """The table that ``--data`` names."""

    config: TableImportConfig
    raw: RawTable
    """With a name for each column."""

    @classmethod
    def read(cls, config: TableImportConfig) -> "GivenTable":
        """Reads it.

        Raises:
            DataError: it cannot be read, or has no column of the target's name.
        """
        raw = named(read_raw(config.data))
        table = cls(config, raw)
        table.check_columns("--target", [config.target])
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return self.raw.names or ()

    def check_columns(self, origin: str, names: Sequence[str]) -> None:
        """Raises DataError unless the table has all of these columns; ``origin`` says who names them."""
        for name in names:
            if name not in self.names:
                near = nearest(name, self.names)
                hint = f"did you mean {near!r}" if near else f"it has {', '.join(self.names[:_LISTED])}"
                raise DataError(f"{self.config.data}: has no column {name!r}, which {origin} names; {hint}")

    def columns_of(self, estimator: Any) -> list[str]:
        """The columns that the estimator was fitted on, in its order.

        Raises:
            TrainingError: they cannot be told, or are not in the table.
        """
        config = self.config
        stored = [str(name) for name in _stored(estimator, "feature_names_in_", ())]
        names = list(config.features) or stored or [name for name in self.names if name != config.target]
        self.check_columns("--features" if config.features else str(config.model), names)
        count = _stored(estimator, "n_features_in_", None)
        if count is None:
            name = type(estimator).__name__
            raise TrainingError(f"{config.model}: {name} is not fitted, or is no estimator: it has no n_features_in_")
        if len(names) != count:
            raise TrainingError(
                f"{config.model}: was fitted on {count} columns without names, and {len(names)} are given "
                f"({', '.join(names[:_LISTED])}); name its columns in their order with --features"
            )
        if config.target in names:
            raise TrainingError(f"{config.model}: was fitted on the column {config.target!r}, which is the target")
        return names

    def rows(
        self, sources: Sequence[Source], classes: Sequence[Any]
    ) -> tuple[TableManifest, list[Rejected], dict[str, Any]]:
        """The rows that can be predicted, without splits; those that cannot; and the class of each label.

        Raises:
            DataError: the table does not fit what the estimator takes.
        """
        config = self.config
        used = [source for source in sources if source.kind != "unused"]
        kind: TaskKind = "classification" if classes else "regression"
        kinds: dict[str, str] = {source.name: self._kind(source) for source in used}
        kinds[config.target] = "category" if classes else "number"
        table = TableConfig(target=config.target, features=tuple(kinds)[:-1], kinds=kinds)
        inferred = infer_schema(self.raw, table, kind, str(config.data)).spec
        labels = labels_of(classes, inferred.target.categories, str(config.model))
        by_name = {source.name: source for source in used}
        columns = tuple(_column(column, by_name.get(column.name), tuple(labels)) for column in inferred.columns)
        manifest, rejected = read_known(config.data, TableSpec(columns=columns), self.raw)
        known = [record for record in manifest.records if not classes or record.target in labels]
        if not known:
            raise DataError(f"{config.data}: no row has a label of the estimator, which are {', '.join(labels)}")
        unknown = [record for record in manifest.records if classes and record.target not in labels]
        rejected += [Rejected(one.path, f"the estimator does not know the label {one.target!r}") for one in unknown]
        return replace(manifest, records=tuple(known)), rejected, labels

    def _kind(self, source: Source) -> Kind:
        """Numbers stay booleans where the table spells them as such."""
        if source.kind == "category":
            return "category"
        cells = self.raw.columns[self.names.index(source.name)]
        return "boolean" if read_column(source.name, cells, self.raw.notation).kind == "boolean" else "number"


def _stored(estimator: Any, name: str, otherwise: Any) -> Any:
    """A fitted attribute; a Pipeline looks for it in its first step, which may be anything."""
    try:
        return getattr(estimator, name, otherwise)
    except Exception:
        return otherwise


def _column(column: Column, source: Source | None, labels: tuple[str, ...]) -> Column:
    """The column with what the estimator knows of it."""
    if column.role == "target":
        return replace(column, categories=labels)
    if source is None:
        return column
    return replace(column, categories=tuple(source.categories), may_be_missing=not source.needs_value)


def labels_of(classes: Sequence[Any], spelled: Sequence[str], origin: str) -> dict[str, Any]:
    """Label -> class of the estimator, in its order; a label is spelled as in the table where that has it.

    Args:
        classes: of the estimator; none for a regression.
        spelled: labels of the table.
        origin: the file of the estimator, for messages.

    Raises:
        TrainingError: a class is neither a text nor a number nor a boolean, or two have the same label.
    """
    labels: dict[str, Any] = {}
    for one in classes:
        try:
            text = category_text(one)
        except ValueError as error:
            raise TrainingError(f"{origin}: the class {one!r} cannot be a label: {error}") from error
        label = text if text in spelled else next((other for other in spelled if _means(other, one)), text)
        if label in labels:
            raise TrainingError(f"{origin}: two classes have the label {label!r}")
        labels[label] = one
    return labels


def _means(label: str, one: Any) -> bool:
    """Whether a text of the table is this class, as ``1.0`` is 1 and ``True`` is true."""
    if isinstance(one, bool):
        return label.casefold() == str(one).casefold()
    try:
        return not isinstance(one, str) and float(label) == float(one)
    except ValueError:
        return False


def with_splits(manifest: TableManifest, config: TableRunConfig) -> TableManifest:
    """The rows with the splits that training would give them; what is known of the columns stays as it is.

    Raises:
        DataError: there are too few rows.
    """
    present = {record.target for record in manifest.records}
    columns = (
        replace(column, categories=tuple(label for label in column.categories if label in present))
        if column.role == "target"
        else column
        for column in manifest.spec.columns
    )
    spec = replace(manifest.spec, columns=tuple(columns))
    split, _ = assign_splits(replace(manifest, spec=spec), config)
    # Rows of a run lose the columns of which no training row has a value; the estimator has been fitted on others.
    places = (record.split for record in split.records)
    records = (replace(record, split=place) for record, place in zip(manifest.records, places, strict=True))
    return replace(manifest, records=tuple(records))


def matrix_of(records: Sequence[Record], sources: Sequence[Source]) -> np.ndarray:
    """Rows as the estimator takes them: float64 (N, columns), or objects where a column has other than numbers."""
    rows = [json.loads(record.row) for record in records]
    columns = [_cells([row.get(source.name) for row in rows], source) for source in sources]
    mixed = any(source.kind == "category" or source.has_booleans or source.missing_is_none for source in sources)
    dtype = object if mixed else np.float64
    matrix = np.empty((len(rows), len(sources)), dtype)
    for number, cells in enumerate(columns):
        matrix[:, number] = cells
    return matrix


def _cells(cells: Sequence[Any], source: Source) -> list[Any]:
    if source.kind == "unused":
        return [0.0] * len(cells)
    absent = None if source.missing_is_none else math.nan
    if source.kind == "category":
        return [absent if cell is None else cell for cell in cells]
    read = bool if source.has_booleans else float
    return [absent if cell is None else read(cell) for cell in cells]
