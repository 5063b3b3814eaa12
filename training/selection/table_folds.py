"""Folds of rows: by class and by group, or forward in time; equal rows are always in the same fold."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marquee.training.core.errors import DataError
from marquee.training.selection.kfold import check_classes, grouped_folds
from marquee.training.selection.selectable import Folds
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest
from marquee.training.tasks.tabular.split import assign_splits, together


def make_table_folds(manifest: TableManifest, config: TableRunConfig, count: int) -> Folds:
    """Divides the rows of a table into folds, in the way in which its runs are split (``split.by``).

    At random, every row is held out once, classes in proportion, groups and equal rows whole. By time, fold ``i`` of
    ``k`` holds out block ``i + 1`` of ``k + 1`` blocks of consecutive rows and trains on all earlier blocks, so that no
    answer is measured on rows that are older than those it was learnt from.

    Args:
        manifest: rows without splits.
        config: the run's configuration; its seed determines the folds, and the validation rows within each.
        count: number of folds, at least 2.

    Returns:
        Manifests in which every row has a split; validation rows are taken from the training rows.

    Raises:
        DataError: there are too few rows, groups or times, or too few of a class.
    """
    # In the order of contents, so that the order of the lines of a file does not matter.
    records = sorted(manifest.records, key=lambda record: (record.sha256, record.target, record.group, record.path))
    if splits_by_time(config):
        return _forward(replace(manifest, records=tuple(records)), config, count)
    return _at_random(replace(manifest, records=tuple(records)), config, count)


def splits_by_time(config: TableRunConfig) -> bool:
    """Whether rows are split by time."""
    return config.split.by == "time" or (config.split.by == "auto" and bool(config.table.time))


def train_and_validate(manifest: TableManifest, config: TableRunConfig) -> tuple[TableManifest, list[str]]:
    """Splits all rows into training and validation rows, and warnings about them."""
    alone = replace(config, split=replace(config.split, test=0.0))
    return assign_splits(manifest, alone)


def _at_random(manifest: TableManifest, config: TableRunConfig, count: int) -> Folds:
    records = manifest.records
    units = _units(records)
    labels = [record.target if manifest.labels else "" for record in records]
    if manifest.labels:
        check_classes(labels, units, count, "rows")
    elif len(set(units)) < 2 * count:
        raise DataError(f"{len(set(units))} separate rows or groups are too few for {count} folds; use fewer --folds")
    held_out = grouped_folds(labels, units, count, config.loop.seed)
    return Folds(
        manifests=[_fold(manifest, set(range(len(records))) - set(out), out, config) for out in map(_ints, held_out)],
        items=len(records),
    )


def _forward(manifest: TableManifest, config: TableRunConfig, count: int) -> Folds:
    blocks = _blocks(manifest.records, count + 1)
    folds, ratios = [], []
    for number in range(1, count + 1):
        past = {row for block in blocks[:number] for row in block}
        _check_past(manifest, past, number, count)
        folds.append(_fold(manifest, past, blocks[number], config))
        ratios.append(len(blocks[number]) / len(past))
    return Folds(
        manifests=folds,
        items=len(manifest.records),
        test_per_train=float(np.mean(ratios)),
        note=(
            f"The rows are ordered by {config.table.time}: each fold is measured on a block of rows that follows all "
            "rows it was trained on, so early folds have fewer training rows."
        ),
    )


def _blocks(records: Sequence[Record], count: int) -> list[list[int]]:
    """Indices of the rows, divided by time into blocks of about the same size.

    A group, or a set of equal rows, is in the block of its oldest row; equal times are in one block.

    Raises:
        DataError: a block is empty.
    """
    sets = together(records)
    times = np.array([min(record.time for _, record in rows) for rows in sets])
    order = np.argsort(times, kind="stable")
    ends = np.cumsum([len(sets[i]) for i in order])
    # The block of a time is that of the first row that has it.
    starts = ends - [len(sets[i]) for i in order]
    block_of: dict[float, int] = {}
    blocks: list[list[int]] = [[] for _ in range(count)]
    for i, start in zip(order, starts, strict=True):
        block = block_of.setdefault(float(times[i]), int(start * count // ends[-1]))
        blocks[block] += [number for number, _ in sets[i]]
    if not all(blocks):
        raise DataError(
            f"{len(set(times.tolist()))} different times are too few, or too unevenly spread, for {count - 1} folds "
            "forward in time; use fewer --folds, or --split.by random if the rows may be shuffled"
        )
    return [sorted(block) for block in blocks]


def _check_past(manifest: TableManifest, past: set[int], number: int, count: int) -> None:
    """Raises DataError where the rows before a fold lack a class."""
    seen = {manifest.records[row].target for row in past}
    for label in manifest.labels:
        if label not in seen:
            raise DataError(
                f"class {label!r} has no row before the rows of fold {number} of {count}; use fewer --folds, or "
                "--split.by random if the rows may be shuffled"
            )


def _fold(manifest: TableManifest, train: set[int], test: Sequence[int], config: TableRunConfig) -> TableManifest:
    """A manifest in which ``test`` is held out and part of ``train`` is for validation; other rows are left out."""
    records = manifest.records
    known = replace(manifest, records=tuple(records[row] for row in sorted(train)))
    split, _ = train_and_validate(known, config)
    held_out = tuple(replace(records[row], split="test") for row in test)
    return replace(manifest, records=(*split.records, *held_out))


def _units(records: Sequence[Record]) -> list[str]:
    """The set that each row belongs to (see :func:`marquee.training.tasks.tabular.split.together`)."""
    units = [""] * len(records)
    for number, rows in enumerate(together(records)):
        for row, _ in rows:
            units[row] = str(number)
    return units


def _ints(indices: np.ndarray) -> list[int]:
    return [int(index) for index in indices]
