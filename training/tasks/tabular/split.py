"""Seeded splits of rows: at random, by group or by time; equal rows are never in two of them."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, NUMBERS, Column, TableSpec
from marquee.training.core.dataset import SPLITS
from marquee.training.core.errors import DataError
from marquee.training.core.grouping import place_groups, sets_of
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest, arrays_of, with_features


def assign_splits(manifest: TableManifest, config: TableRunConfig) -> tuple[TableManifest, list[str]]:
    """Gives every row a split, and the schema the ranges and categories of the training rows.

    Rows that have a split already keep it, as in a fold of a cross-validation.

    Returns:
        The manifest, and warnings.

    Raises:
        DataError: there are too few rows, or groups, for training and validation.
    """
    if all(record.split for record in manifest.records):
        result = with_seen(manifest)
        return result, _check(result)
    result = _placed(manifest, config)
    repeated = len(result.records) - len({(record.row, record.target) for record in result.records})
    warnings = [f"{repeated} rows are there twice or more; equal rows are in the same split"] if repeated else []
    return result, warnings + _check(result)


def _placed(manifest: TableManifest, config: TableRunConfig) -> TableManifest:
    """The manifest with splits, and with the schema of the training rows.

    Rows may be equal without a column of which no training row has a value: they are split anew without it.
    """
    by = config.split.by
    if by == "auto":
        by = "time" if config.table.time else "group" if config.table.group else "random"
    while True:
        sets = together(manifest.records)
        places = _by_time(sets, config) if by == "time" else _at_random(sets, config, manifest.labels != ())
        placed = with_seen(_with_splits(manifest, _spread(sets, places)))
        if len(placed.spec.features) == len(manifest.spec.features):
            return placed
        manifest = placed


def _with_splits(manifest: TableManifest, places: Sequence[str]) -> TableManifest:
    records = (replace(record, split=place) for record, place in zip(manifest.records, places, strict=True))
    return replace(manifest, records=tuple(records))


def together(records: Sequence[Record]) -> list[list[tuple[int, Record]]]:
    """Sets of rows, with their positions, that belong in one split: of one group, or equal in features and target."""
    keys = ([(record.row, record.target), *([record.group] if record.group else [])] for record in records)
    return [[(number, records[number]) for number in numbers] for numbers in sets_of(keys)]


def _spread(sets: Sequence[Sequence[tuple[int, Record]]], places: Sequence[str]) -> list[str]:
    """The place of each row from those of the sets."""
    spread = {number: place for rows, place in zip(sets, places, strict=True) for number, _ in rows}
    return [spread[number] for number in range(len(spread))]


def _at_random(sets: Sequence[list[tuple[int, Record]]], config: TableRunConfig, stratify: bool) -> list[str]:
    """Large sets first, those of one size in a random order that depends on contents only; classes in proportion."""
    order = sorted(range(len(sets)), key=lambda i: min((record.sha256, record.target) for _, record in sets[i]))
    random.Random(f"{config.loop.seed}/rows").shuffle(order)  # noqa: S311 - a split is not a secret
    order.sort(key=lambda i: len(sets[i]), reverse=True)
    labels = [sorted(record.target if stratify else "" for _, record in sets[i]) for i in order]
    fractions = {"train": 1 - config.split.val - config.split.test, "val": config.split.val, "test": config.split.test}
    placed = place_groups(labels, {part: share for part, share in fractions.items() if share > 0})
    places = [""] * len(sets)
    for i, place in zip(order, placed, strict=True):
        places[i] = place
    return places


def _by_time(sets: Sequence[list[tuple[int, Record]]], config: TableRunConfig) -> list[str]:
    """The oldest rows train, the newest test; a set goes by its oldest row, and equal times stay together."""
    times = [min(record.time for _, record in rows) for rows in sets]
    rows_at: Counter[float] = Counter()
    for time, rows in zip(times, sets, strict=True):
        rows_at[time] += len(rows)
    ordered = sorted(rows_at)
    shares = (1 - config.split.val - config.split.test, 1 - config.split.test)
    cuts = _cuts(np.cumsum([rows_at[time] for time in ordered]), shares if config.split.test else shares[:1])
    place = {time: SPLITS[sum(number >= cut for cut in cuts)] for number, time in enumerate(ordered)}
    return [place[time] for time in times]


def _cuts(older: np.ndarray, shares: Sequence[float]) -> list[int]:
    """Where to cut a sequence of times: each cut as near to its share of the rows as it can be.

    Args:
        older: int64 (times,), the rows up to each time.
        shares: of the rows that are older than each cut, ascending.

    Returns:
        The number of times before each cut. There is a time between two cuts, and after the last, where there are
        enough of them.
    """
    cuts = [0]
    for number, share in enumerate(shares):
        first = min(cuts[-1] + 1, len(older))
        last = max(first, len(older) - len(shares) + number)
        cuts.append(first + int(np.abs(older[first - 1 : last] - share * older[-1]).argmin()))
    return cuts[1:]


def with_seen(manifest: TableManifest) -> TableManifest:
    """The manifest with a schema whose ranges and categories are those of the training rows.

    A feature of which no training row has a value is ignored, and taken out of all rows.

    Raises:
        DataError: no feature is left.
    """
    train = manifest.split("train") or list(manifest.records)
    seen = _Seen(manifest.spec, train)
    columns = tuple(map(seen.column, manifest.spec.columns))
    if all(column.role != "feature" for column in columns):
        raise DataError("no feature has a value in any training row; add rows, or split them in another way (--split)")
    spec = replace(manifest.spec, columns=columns)
    if len(spec.features) == len(manifest.spec.features):
        return replace(manifest, spec=spec)
    return TableManifest(spec, tuple(with_features(record, spec) for record in manifest.records))


class _Seen:
    """What training rows hold.

    Args:
        spec: their schema.
        train: these rows.
    """

    def __init__(self, spec: TableSpec, train: Sequence[Record]) -> None:
        arrays = arrays_of(spec, train)
        self._train = train
        self._values = {column.name: arrays[NUMBERS][:, number] for number, column in enumerate(spec.numeric)}
        self._codes = {column.name: arrays[CODES][:, number] for number, column in enumerate(spec.categorical)}

    def column(self, column: Column) -> Column:
        """A column with their range or categories; ignored if it is a feature of which none of them has a value."""
        if column.role in ("group", "ignore") or (column.role == "target" and column.kind == "category"):
            return column
        if column.kind == "category":
            codes = set(self._codes[column.name].tolist())
            known = tuple(name for code, name in enumerate(column.categories, FIRST_CATEGORY) if code in codes)
            return replace(column, categories=known) if known else replace(column, role="ignore")
        values = self._numbers(column)
        if len(values) == 0:
            return replace(column, role="ignore", low=None, high=None)
        if column.kind == "boolean":
            return column
        return replace(column, low=float(values.min()), high=float(values.max()))

    def _numbers(self, column: Column) -> np.ndarray:
        """The values that there are of a feature, the target or the time, float64."""
        if column.role == "feature":
            values = self._values[column.name]
        else:
            role = column.role
            values = np.array([record.number if role == "target" else record.time for record in self._train])
        known: np.ndarray = values[~np.isnan(values)]
        return known


def _check(manifest: TableManifest) -> list[str]:
    counts = {split: Counter(record.target for record in manifest.split(split)) for split in SPLITS}
    for split, least in (("train", 2), ("val", 1)):
        if counts[split].total() < least:
            raise DataError(
                f"{len(manifest.records)} rows, or groups of them, are too few ({split}: {counts[split].total()}); "
                "add rows, or change --split.val and --split.test"
            )
    if not manifest.labels:
        if len(counts["train"]) < 2:
            raise DataError(f"column {manifest.target!r} has the same value in all training rows")
        return []
    warnings = []
    for label in manifest.labels:
        if not counts["train"][label]:
            raise DataError(f"class {label!r} has no training row; add rows of it, or leave its rows out")
        warnings += [
            f"class {label!r} has no {split} row; its accuracy there is unknown"
            for split in ("val", "test")
            if counts[split] and not counts[split][label]
        ]
    return warnings
