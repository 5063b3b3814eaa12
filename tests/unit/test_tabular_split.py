"""A table on disk -> rows of a run: read, split, written and read back."""

import csv
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from marquee.handlers.inputs.table.decode import decode
from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, NUMBERS, UNSEEN, Column, TableSpec
from marquee.handlers.inputs.table.values import category_text
from marquee.training.core.config import merge_config
from marquee.training.core.errors import DataError
from marquee.training.tasks import default_config
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import (
    Record,
    TableManifest,
    arrays_of,
    indices_of,
    read_manifest,
    write_manifest,
)
from marquee.training.tasks.tabular.read import read_raw, read_table
from marquee.training.tasks.tabular.split import assign_splits, together
from marquee.training.tasks.tabular.table_config import TableConfig

LABELS = ("common", "rare")
X = Column(name="x", kind="number", may_be_missing=True)
TARGET = Column(name="y", kind="number", role="target")
REGRESSION = TableSpec(columns=(X, TARGET))
CLASSES = TableSpec(columns=(X, replace(TARGET, kind="category", categories=LABELS)))


def config(task: str = "tabular-regression", **settings) -> TableRunConfig:
    result: TableRunConfig = merge_config(default_config(task), settings)
    return result


def record(x: object, target: object = None, line: int = 0, group: str = "", time: float = 0.0) -> Record:
    """A row with one feature; its target is the feature unless there is another."""
    cell = "null" if x is None else x
    return Record(f"t.csv:{line}", f'{{"x":{cell}}}'.encode(), str(x if target is None else target), "", group, time)


def splits(records: list[Record], spec: TableSpec = REGRESSION, **settings) -> list[str]:
    """The split of each record, in order."""
    task = "tabular-regression" if spec is REGRESSION else "tabular-classification"
    manifest, _ = assign_splits(TableManifest(spec, tuple(records)), config(task, **settings))
    assert [(r.row, r.target) for r in manifest.records] == [(r.row, r.target) for r in records]
    return [r.split for r in manifest.records]


class TestRandom:
    def test_shares_are_those_of_the_configuration(self):
        rows = [record(float(i)) for i in range(200)]
        assert Counter(splits(rows, split={"val": 0.2, "test": 0.1})) == {"train": 140, "val": 40, "test": 20}
        assert Counter(splits(rows, split={"val": 0.2, "test": 0})) == {"train": 160, "val": 40}

    def test_classes_are_in_proportion(self):
        rows = [record(float(i), LABELS[i < 20]) for i in range(200)]
        counted = Counter(zip((r.target for r in rows), splits(rows, CLASSES), strict=True))
        assert counted["rare", "train"], counted["rare", "val"] == (14, 3)
        assert (counted["common", "train"], counted["common", "val"]) == (126, 27)

    def test_it_depends_on_the_seed_and_on_the_contents_not_on_the_order_of_lines(self):
        rows = [record(float(i % 90), LABELS[i % 3 == 0], line=i, group=str(i // 3 % 50)) for i in range(200)]
        shuffled = random.Random(1).sample(rows, len(rows))
        moved = [replace(r, path=f"u.csv:{i}") for i, r in enumerate(shuffled)]

        def chosen(rows, seed):
            return sorted(
                (r.row, r.target, r.group, split)
                for r, split in zip(rows, splits(rows, CLASSES, loop={"seed": seed}), strict=True)
            )

        assert chosen(rows, 0) == chosen(moved, 0)
        assert chosen(rows, 0) != chosen(rows, 1)

    def test_exact_duplicates_are_in_one_split_and_counted(self):
        rows = [record(float(i % 40)) for i in range(200)]
        manifest, warnings = assign_splits(TableManifest(REGRESSION, tuple(rows)), config())
        places = defaultdict(set)
        for row in manifest.records:
            places[row.row].add(row.split)
        assert all(len(found) == 1 for found in places.values())
        assert {split for found in places.values() for split in found} == {"train", "val", "test"}
        assert warnings == ["160 rows are there twice or more; equal rows are in the same split"]

    def test_rows_that_differ_in_the_target_only_are_no_duplicates(self):
        assert len(together([record(1, "a"), record(1, "b"), record(1, "a")])) == 2

    def test_splits_that_are_there_already_stay(self):
        rows = [replace(record(float(i)), split="val" if i < 3 else "train") for i in range(9)]
        assert splits(rows) == ["val"] * 3 + ["train"] * 6


class TestGroups:
    def test_groups_are_whole(self):
        rows = [record(float(i), group=f"g{i % 17}") for i in range(200)]
        places = splits(rows, table={"group": "g"})
        of = defaultdict(set)
        for row, place in zip(rows, places, strict=True):
            of[row.group].add(place)
        assert all(len(found) == 1 for found in of.values())
        assert set(places) == {"train", "val", "test"}

    def test_duplicates_and_groups_chain(self):
        """a and b share a group, b and c are equal, c and d share a group, d equals e, which has no group."""
        rows = [
            record(1, group="p"),
            record(2, group="p"),
            record(2, group="q"),
            record(3, group="q"),
            record(3),
            record(4),
            record(5, group="r"),
        ]
        sets = sorted(sorted(number for number, _ in rows) for rows in together(rows))
        assert sets == [[0, 1, 2, 3, 4], [5], [6]]

    def test_chains_of_hundreds_of_rows_stay_together(self):
        chain = [record(i // 2, group=f"g{(i + 1) // 2}") for i in range(1000)]
        shuffled = random.Random(0).sample(chain, len(chain))
        assert [len(rows) for rows in together(shuffled)] == [1000]
        others = [record(10_000 + i) for i in range(1000)]
        assert len(set(splits(chain + others)[:1000])) == 1

    def test_the_text_of_a_group_is_not_that_of_a_row(self):
        assert len(together([record(1, group='{"x":2}'), record(2, group="")])) == 2


class TestTime:
    def test_the_newest_rows_are_the_test_rows(self):
        rows = [record(float(i), time=float(i)) for i in range(100)]
        mixed = random.Random(0).sample(rows, 100)
        places = splits(mixed, table={"time": "t"}, split={"val": 0.2, "test": 0.1})
        for row, place in zip(mixed, places, strict=True):
            assert place == ("train" if row.time < 70 else "val" if row.time < 90 else "test")

    def test_without_a_test_share_the_newest_rows_validate(self):
        rows = [record(float(i), time=-float(i)) for i in range(10)]
        assert splits(rows, table={"time": "t"}, split={"val": 0.3, "test": 0}) == ["val"] * 3 + ["train"] * 7

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            ((8, 1, 1), ["train", "val", "test"]),
            ((2, 7, 1), ["train", "val", "test"]),
            ((2, 1, 7), ["train", "val", "test"]),
            ((60, 30, 10), ["train", "val", "test"]),
            ((40, 32, 14, 14), ["train", "train", "val", "test"]),
            ((50, 50), ["train", "val"]),
        ],
    )
    def test_equal_times_stay_together_and_every_part_gets_some_where_it_can(self, counts, expected):
        rows = [record(float(100 * t + i), time=float(t)) for t, count in enumerate(counts) for i in range(count)]
        mixed = random.Random(0).sample(rows, len(rows))
        places = splits(mixed, table={"time": "t"})
        of = {int(row.time): place for row, place in zip(mixed, places, strict=True)}
        assert [of[t] for t in range(len(counts))] == expected
        assert all(of[int(row.time)] == place for row, place in zip(mixed, places, strict=True))

    def test_one_time_cannot_be_split(self):
        with pytest.raises(DataError, match=r"10 rows, or groups of them, are too few \(val: 0\); add rows, or"):
            splits([record(float(i)) for i in range(10)], table={"time": "t"})

    def test_a_group_goes_by_its_oldest_row(self):
        rows = [record(float(i), time=float(i), group="g" if i in (1, 99) else "") for i in range(100)]
        places = splits(rows, table={"time": "t", "group": "g"})
        assert places[99] == places[1] == "train"
        assert places[98] == "test"


class TestErrors:
    @pytest.mark.parametrize("count", [1, 2])
    def test_too_few_rows(self, count):
        with pytest.raises(DataError, match=rf"{count} rows, or groups of them, are too few \((train|val): \d\)"):
            splits([record(float(i)) for i in range(count)])

    def test_one_group_cannot_be_split(self):
        with pytest.raises(DataError, match="too few"):
            splits([record(float(i), group="g") for i in range(50)], table={"group": "g"})

    def test_a_target_that_never_changes_in_training(self):
        with pytest.raises(DataError, match="column 'y' has the same value in all training rows"):
            splits([record(float(i), 1.0) for i in range(50)])

    def test_a_class_without_training_rows(self):
        rows = [replace(record(float(i), "common"), split="train") for i in range(9)]
        rows.append(replace(record(9.0, "rare"), split="val"))
        with pytest.raises(DataError, match="class 'rare' has no training row"):
            splits(rows, CLASSES)

    def test_a_class_without_validation_rows_is_told(self):
        rows = [record(float(i), "common") for i in range(50)] + [record(99.0, "rare")]
        _, warnings = assign_splits(TableManifest(CLASSES, tuple(rows)), config("tabular-classification"))
        assert [line for line in warnings if "'rare' has no val row" in line]

    def test_no_feature_with_a_value_in_the_training_rows(self):
        rows = [record(None if i < 90 else float(i), float(i), time=float(i)) for i in range(100)]
        with pytest.raises(DataError, match="no feature has a value in any training row"):
            splits(rows, table={"time": "t"})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"split": {"by": "group"}}, "split.by: group needs the column of the groups, table.group"),
            ({"split": {"by": "time"}}, "split.by: time needs the column of the times, table.time"),
        ],
    )
    def test_a_split_without_its_column(self, settings, message):
        with pytest.raises(Exception, match=message):
            config(**settings)


def test_ranges_and_categories_are_those_of_the_training_rows():
    colour = Column(name="c", kind="category", categories=("blue", "green", "red"))
    gone = Column(name="gone", kind="number", may_be_missing=True, low=0.0, high=1.0)
    spec = TableSpec(columns=(X, colour, gone, TARGET))
    cells = [
        ("train", 1.5, "red", "null"),
        ("train", -2, "blue", "null"),
        ("train", "null", "red", "null"),
        ("val", 99, "green", "5"),
        ("test", -99, "green", "null"),
    ]
    records = tuple(
        Record(f"t.csv:{i}", f'{{"x":{x},"c":"{c}","gone":{g}}}'.encode(), str(i), split)
        for i, (split, x, c, g) in enumerate(cells)
    )
    manifest, _ = assign_splits(TableManifest(spec, records), config())
    x, c, other, target = manifest.spec.columns
    assert (x.low, x.high) == (-2, 1.5)
    assert c.categories == ("blue", "red")
    assert (other.role, other.low) == ("ignore", None)
    assert target == replace(TARGET, low=0, high=2)
    codes = arrays_of(manifest.spec, manifest.records)[CODES]
    assert codes[:, 0].tolist() == [FIRST_CATEGORY + 1, FIRST_CATEGORY, FIRST_CATEGORY + 1, UNSEEN, UNSEEN]


ODD = ["a,b", 'say "x"', "two\nlines", "Zoë ✓ 東京", "tab\there", "semi;colon", "'", "3.0", "{}", "\\n", "a\r\nb"]
NUMBERS_IN_TEXT = [
    "0.1",
    "-1e-300",
    "5e-324",
    "1.7976931348623157e308",
    "123456789.12345679",
    "0.30000000000000004",
    "-0",
    "9007199254740993",
    "",
    "2.5e-8",
    "+4",
]
DATES = [
    "1970-01-01",
    "2024-02-29T12:30:15.123456Z",
    "2024-02-29T12:30:15+05:30",
    "1969-12-31 23:59",
    "",
    "0001-01-01",
    "9999-12-31",
    "2000-01-01T00:00:00.000001",
    "2024-03-10",
    "2024-03-11",
    "2024-03-12",
]


@pytest.fixture
def odd_table(tmp_path) -> Path:
    path = tmp_path / "odd.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["c", "n", "d", "b", "y", "who"])
        for i in range(5 * len(ODD)):
            turn = i % len(ODD)
            answer = ("yes", "NO", "")[i % 3]
            writer.writerow([ODD[turn], NUMBERS_IN_TEXT[turn], DATES[turn], answer, repr(i / 7), ODD[i % 7]])
    return path


ODD_SETTINGS = TableConfig(
    target="y", group="who", kinds={"c": "category", "n": "number", "d": "date", "b": "boolean"}, separator="comma"
)


def bits(arrays) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in arrays.items()}


class TestManifest:
    def test_writing_and_reading_keeps_every_bit(self, odd_table, tmp_path):
        manifest, rejected, _ = read_table(odd_table, ODD_SETTINGS, "regression")
        assert rejected == []
        manifest, _ = assign_splits(manifest, config(table={"target": "y", "group": "who"}))
        write_manifest(tmp_path / "manifest.csv", manifest)
        again = read_manifest(tmp_path / "manifest.csv")
        assert again == manifest
        assert again.digest == manifest.digest
        assert bits(arrays_of(again.spec, again.records)) == bits(arrays_of(manifest.spec, manifest.records))

    def test_the_rows_decode_to_the_bits_of_the_file(self, odd_table):
        manifest, _, _ = read_table(odd_table, ODD_SETTINGS, "regression")
        decoded = decode(manifest.spec, read_raw(odd_table, ODD_SETTINGS.text))
        arrays = arrays_of(manifest.spec, manifest.records)
        assert bits(arrays) == bits(decoded.arrays)
        names = [column.name for column in manifest.spec.numeric]
        numbers = arrays[NUMBERS][:, names.index("n")]
        for text, value in zip(NUMBERS_IN_TEXT, numbers.tolist(), strict=False):
            assert np.isnan(value) if text == "" else value == float(text)
        categories = next(column.categories for column in manifest.spec.categorical)
        assert set(categories) == set(map(category_text, ODD))
        assert [float(r.target) for r in manifest.records] == [i / 7 for i in range(5 * len(ODD))]

    def test_parquet_gives_the_rows_of_csv(self, tmp_path):
        days = [None, *(f"2024-02-{day:02d}" for day in range(1, 29))]
        columns = {
            "n": [None if i % 5 == 0 else i / 3 for i in range(58)],
            "flag": [i % 2 == 0 for i in range(58)],
            "code": [i % 4 for i in range(58)],
            "day": [days[i % 29] for i in range(58)],
            "y": [i / 9 for i in range(58)],
        }
        with open(tmp_path / "t.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        table = pa.table(columns)
        day = pc.cast(table["day"], pa.date32())
        pq.write_table(table.set_column(3, "day", day), tmp_path / "t.parquet")
        settings = TableConfig(target="y", kinds={"code": "category", "day": "date", "flag": "boolean", "n": "number"})
        both = [read_table(tmp_path / f"t.{kind}", settings, "regression")[0] for kind in ("csv", "parquet")]
        assert [r.row for r in both[0].records] == [r.row for r in both[1].records]
        assert [r.target for r in both[0].records] == [r.target for r in both[1].records]
        assert both[0].spec == both[1].spec

    def test_labels_keep_their_text(self, tmp_path):
        with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["x", "y"], *([i / 3, ODD[i % 4]] for i in range(80))])
        manifest, _, _ = read_table(tmp_path / "t.csv", TableConfig(target="y"), "classification")
        manifest, _ = assign_splits(manifest, config("tabular-classification", table={"target": "y"}))
        write_manifest(tmp_path / "manifest.csv", manifest)
        again = read_manifest(tmp_path / "manifest.csv")
        assert set(again.labels) == set(ODD[:4])
        assert again == manifest
        assert [again.labels[i] for i in indices_of(again.records, again.labels)] == [r.target for r in again.records]
        with pytest.raises(DataError, match=r"t.csv:2: the model does not know the label 'a,b'"):
            indices_of(again.records, ("other",))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: text.replace('""x"":1.0', '""x"":1.5'), "the row of t.csv:1 was changed"),
            (lambda text: text.replace("row", "rows", 1), "KeyError"),
            (lambda text: text[: text.rindex(",")] + "\n", "the row of t.csv:2 is incomplete"),
            (lambda text: text.replace(",0.0,", ",soon,"), "not readable as a run's manifest"),
            (lambda text: text.encode()[:-20].decode(), "not readable as a run's manifest"),
        ],
    )
    def test_a_changed_manifest_is_refused(self, tmp_path, change, message):
        path = tmp_path / "manifest.csv"
        rows = tuple(replace(record(float(i), line=i), split="train") for i in range(3))
        write_manifest(path, TableManifest(REGRESSION, rows))
        assert len(read_manifest(path).records) == 3
        path.write_text(change(path.read_text()))
        with pytest.raises(DataError, match=message) as caught:
            read_manifest(path)
        assert str(path) in str(caught.value)

    def test_the_digest_is_about_contents(self):
        rows = [replace(record(float(i), line=i), split="train") for i in range(5)]
        digest = TableManifest(REGRESSION, tuple(rows)).digest
        moved = [replace(r, path="elsewhere") for r in reversed(rows)]
        assert TableManifest(REGRESSION, tuple(moved)).digest == digest
        for change in ({"target": "9.0"}, {"split": "val"}, {"row": b'{"x":7}'}):
            assert TableManifest(REGRESSION, (replace(rows[0], **change), *rows[1:])).digest != digest


class TestRejected:
    def test_bad_rows_are_listed_with_their_lines(self, tmp_path):
        lines = ["x,c,y", *(f'{i}.5,"two\nlines",{i}' for i in range(8))]  # each takes two lines of the file
        lines += ["much,a,1", "1,a", "2,a,", "3,a,NA", "4,a,x", ",a,5", "6,a,1e999", "7,a,7"]
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
        settings = TableConfig(target="y", kinds={"x": "number", "c": "category", "y": "number"})
        manifest, rejected, _ = read_table(tmp_path / "t.csv", settings, "regression")
        assert [r.path for r in rejected] == [f"t.csv:{line}" for line in (18, 19, 20, 21, 22, 24)]
        reasons = {r.path.partition(":")[2]: r.reason for r in rejected}
        assert "'x'" in reasons["18"]
        assert '"much"' in reasons["18"]
        assert all("'y'" in reasons[line] for line in ("20", "21", "22", "24"))
        assert [r.path for r in manifest.records][-2:] == ["t.csv:23", "t.csv:25"]
        assert [r.path for r in manifest.records][:2] == ["t.csv:2", "t.csv:4"]

    def test_a_row_without_a_time_is_listed(self, tmp_path):
        rows = [f"{i}.5,2024-01-{i + 1:02d},{i}" for i in range(9)] + ["1,,1", "2,2024-13-01,2"]
        (tmp_path / "t.csv").write_text("\n".join(["x,when,y", *rows]) + "\n")
        settings = TableConfig(target="y", time="when", kinds={"when": "date"})
        manifest, rejected, _ = read_table(tmp_path / "t.csv", settings, "regression")
        assert [r.path for r in rejected] == ["t.csv:11", "t.csv:12"]
        assert all("'when'" in r.reason for r in rejected)
        assert [r.time for r in manifest.records] == [19723.0 + i for i in range(9)]

    def test_no_usable_row(self, tmp_path):
        (tmp_path / "t.csv").write_text("x,y\n1,\n2,\n")
        with pytest.raises(DataError, match=r"t\.csv"):
            read_table(tmp_path / "t.csv", TableConfig(target="y"), "regression")

    @pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "."])
    def test_no_such_file(self, tmp_path, name):
        with pytest.raises(DataError, match="expected a CSV or Parquet file|cannot be read|not") as caught:
            read_raw(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
