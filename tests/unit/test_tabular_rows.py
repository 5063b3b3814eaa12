"""The rows of a run: equal whatever file they come from, known again by an evaluation, and read as was stated."""

import csv
import random
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.table.options import TextOptions
from marquee.handlers.inputs.table.spec import NUMBERS, Column, TableSpec
from marquee.handlers.inputs.table.values import parse_date
from marquee.training.core.config import merge_config
from marquee.training.core.errors import DataError
from marquee.training.core.evaluation import evaluate
from marquee.training.core.run import train
from marquee.training.importing.scikit_table import with_splits
from marquee.training.tasks import default_config
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest, arrays_of, read_manifest
from marquee.training.tasks.tabular.read import read_known, read_raw, read_table
from marquee.training.tasks.tabular.schema.names import named
from marquee.training.tasks.tabular.split import assign_splits
from marquee.training.tasks.tabular.table_config import TableConfig

REGRESSION, CLASSIFICATION = "tabular-regression", "tabular-classification"


def config(task: str = REGRESSION, **settings) -> TableRunConfig:
    result: TableRunConfig = merge_config(default_config(task), {"table": {"target": "y"}, **settings})
    return result


def write(path: Path, names, rows, **options) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, **options)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def known(data: Path, spec: TableSpec) -> TableManifest:
    """The rows of a file with the columns of a model."""
    return read_known(data, spec, named(read_raw(data, spec.text)))[0]


class TestDates:
    def test_rows_have_one_text_with_the_bits_of_the_file(self, tmp_path):
        texts = [
            "1970-01-01",
            "2024-02-29T12:30:15.123456Z",
            "2024-02-29T12:30:15+05:30",
            "1969-12-31 23:59",
            "0001-01-01",
            "9999-12-31T23:59:59.999999",
            "9999-12-31T23:00-05:00",
            "0001-01-01T00:00+05:00",
            "2000-01-01T00:00:00.000001",
            "1582-10-15T06:00:00.999999",
        ]
        data = write(tmp_path / "t.csv", ["when", "y"], [[texts[n % 10], n] for n in range(40)])
        manifest, rejected, _ = read_table(data, TableConfig(target="y"), "regression")
        assert rejected == []
        values = arrays_of(manifest.spec, manifest.records)[NUMBERS][:, 0].tolist()
        assert values == [parse_date(text) for text in texts] * 4
        assert manifest.records[0].row == b'{"when":"1970-01-01"}'
        assert manifest.records[2].row == b'{"when":"2024-02-29T07:00:15Z"}'

    def test_equal_rows_are_in_one_split_however_their_dates_are_spelled(self, tmp_path):
        rows = []
        for number in range(60):
            day = f"2024-{number % 12 + 1:02d}-{number // 12 + 1:02d}"
            for text in (day, f"{day}T00:00", f"{day} 02:00+02:00", f"{day}T00:00:00.000Z"):
                rows.append([text, number])
        random.Random(0).shuffle(rows)
        data = write(tmp_path / "t.csv", ["when", "y"], rows)
        manifest, warnings = assign_splits(read_table(data, TableConfig(target="y"), "regression")[0], config())
        splits = defaultdict(set)
        for record in manifest.records:
            splits[record.target].add(record.split)
        assert all(len(found) == 1 for found in splits.values())
        assert warnings == ["180 rows are there twice or more; equal rows are in the same split"]

    def test_csv_and_parquet_give_the_same_rows(self, tmp_path):
        moments = [datetime(2024, 1, 1 + n % 28, n % 24, 30, 15, n, tzinfo=timezone.utc) for n in range(40)]
        write(tmp_path / "t.csv", ["when", "y"], [[str(moment), n] for n, moment in enumerate(moments)])
        pq.write_table(pa.table({"when": moments, "y": list(range(40))}), tmp_path / "t.parquet")
        both = [
            read_table(tmp_path / f"t.{kind}", TableConfig(target="y"), "regression")[0] for kind in ("csv", "parquet")
        ]
        assert [r.row for r in both[0].records] == [r.row for r in both[1].records]


@pytest.fixture(scope="module")
def late(tmp_path_factory) -> Path:
    """A table whose column ``late`` has values in the newest rows only, which no training row has."""
    rows = [[n / 7, n * 2.0, n / 3 if n >= 90 else "", f"2024-01-01T{n // 60:02d}:{n % 60:02d}"] for n in range(100)]
    return write(tmp_path_factory.mktemp("late") / "late.csv", ["x", "y", "late", "when"], rows)


LATE = {"table": {"target": "y", "time": "when", "kinds": {"late": "number"}}, "loop": {"epochs": 2}}


class TestColumnsWithoutTrainingValues:
    def test_stored_rows_have_the_features_of_the_final_schema(self, late):
        run = config(**LATE)
        manifest, _ = assign_splits(read_table(late, run.table, "regression")[0], run)
        assert [column.name for column in manifest.spec.features] == ["x"]
        assert all(record.row.startswith(b'{"x":') and b"late" not in record.row for record in manifest.records)
        again = known(late, manifest.spec)
        assert [r.content for r in again.records] == [r.content for r in manifest.records]

    def test_rows_that_are_equal_without_the_column_are_in_one_split(self):
        """Pairs that differ in a column of which no training row has a value."""
        columns = (
            Column(name="x", kind="number"),
            Column(name="late", kind="number", may_be_missing=True, low=0.0, high=1.0),
            Column(name="y", kind="number", role="target", low=0.0, high=99.0),
        )
        records = []
        for number in range(40):
            late = "1.0" if number == 39 else "null"
            records.append(
                Record(f"t.csv:{number}", f'{{"x":{number % 39}.0,"late":{late}}}'.encode(), str(number % 39))
            )
        seen_apart = 0
        for seed in range(30):
            manifest, _ = assign_splits(
                TableManifest(TableSpec(columns=columns), tuple(records)), config(loop={"seed": seed})
            )
            dropped = all(column.name != "late" for column in manifest.spec.features)
            seen_apart += dropped
            if dropped:
                assert manifest.records[0].split == manifest.records[39].split
        assert seen_apart

    def test_an_imported_estimator_gets_all_columns_that_it_was_fitted_on(self, late):
        run = config(**LATE)
        manifest = read_table(late, run.table, "regression")[0]
        split = with_splits(manifest, run)
        assert split.spec == manifest.spec
        assert [record.row for record in split.records] == [record.row for record in manifest.records]
        assert {record.split for record in split.records} == {"train", "val", "test"}

    def test_an_evaluation_knows_the_rows_again(self, late, tmp_path):
        train(config(**LATE), late, tmp_path / "run", report=False)
        seen = evaluate(Predictor.load(tmp_path / "run" / "bundle"), late).metrics["seen"]
        assert seen == {"train": 70, "val": 15, "measured": False}


@pytest.fixture(scope="module")
def coarse(tmp_path_factory) -> tuple[Path, Path]:
    """A run on a table with eight different rows of features, and the folder of the table."""
    folder = tmp_path_factory.mktemp("coarse")
    rows = [[n % 2, n // 2 % 2, n // 4 % 2, n + 0.5] for n in range(120)]
    write(folder / "old.csv", ["a", "b", "c", "y"], rows)
    train(config(loop={"epochs": 2}), folder / "old.csv", folder / "run", report=False)
    return folder / "run", folder


class TestSeen:
    def test_equal_features_alone_are_not_seen(self, coarse):
        run, folder = coarse
        new = write(folder / "new.csv", ["a", "b", "c", "y"], [[n % 2, n // 2 % 2, 0, n] for n in range(40)])
        result = evaluate(Predictor.load(run / "bundle"), new)
        assert result.metrics["seen"] == {"train": 0, "val": 0, "measured": False}
        assert len(result.records) == 40

    def test_equal_features_and_target_are(self, coarse):
        run, folder = coarse
        result = evaluate(Predictor.load(run / "bundle"), folder / "old.csv")
        assert result.metrics["seen"] == {"train": 84, "val": 18, "measured": False}
        assert len(result.records) == 18

    def test_the_digest_of_a_request_is_that_of_its_bytes(self, coarse):
        run, _ = coarse
        records = read_manifest(run / "manifest.csv").records
        assert len({record.sha256 for record in records}) == 8
        assert len({record.content for record in records}) == 120


class TestStatedText:
    def test_it_is_stored_in_the_schema(self, tmp_path):
        data = write(tmp_path / "t.csv", ["x", "y"], [[f"1,{n:03d}", n] for n in range(40)])
        stated = TableConfig(target="y", decimal="comma")
        manifest, _, schema = read_table(data, stated, "regression")
        assert schema.spec.text == manifest.spec.text == TextOptions(decimal="comma")
        assert manifest.records[39].row == b'{"x":1.039}'
        assert known(data, manifest.spec).records == manifest.records

    def test_evaluation_and_requests_read_numbers_as_training_did(self, tmp_path):
        """``"1,234"`` between commas is 1234 unless it is stated to be 1.234."""
        data = write(tmp_path / "t.csv", ["x", "y"], [[f"1,{n:03d}", n % 7] for n in range(100, 160)])
        run = config(table={"target": "y", "decimal": "comma"}, loop={"epochs": 2})
        train(run, data, tmp_path / "run", report=False)
        predictor = Predictor.load(tmp_path / "run" / "bundle")
        result = evaluate(predictor, data)
        assert result.metrics["unfamiliar"] <= 0.3
        assert result.metrics["seen"]["train"] == 42
        (answer,) = predictor.answer(b'x\n"1,130"\n')
        assert answer.value == predictor.answer([{"x": 1.13}])[0].value
        assert answer.unfamiliar == ()


class TestValuesThatAreNoText:
    @pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION])
    def test_an_infinite_group_is_a_bad_row(self, tmp_path, task):
        groups = [float(n // 2) for n in range(40)]
        groups[5] = float("inf")
        answers = [n / 3 if task == REGRESSION else "ab"[n % 2] for n in range(40)]
        table = pa.table({"x": [n / 7 for n in range(40)], "who": groups, "y": answers})
        pq.write_table(table, tmp_path / "t.parquet")
        kind = "regression" if task == REGRESSION else "classification"
        manifest, rejected, _ = read_table(tmp_path / "t.parquet", TableConfig(target="y", group="who"), kind)
        assert len(manifest.records) == 39
        assert [(r.path, r.reason) for r in rejected] == [
            ("t.parquet:6", "row 6, column 'who': expected a text, got Infinity")
        ]

    def test_an_infinite_label_is_a_bad_row(self, tmp_path):
        labels = [float(n % 3) for n in range(40)]
        labels[5] = float("-inf")
        pq.write_table(pa.table({"x": [n / 7 for n in range(40)], "y": labels}), tmp_path / "t.parquet")
        stated = TableConfig(target="y", kinds={"y": "category"})
        manifest, rejected, _ = read_table(tmp_path / "t.parquet", stated, "classification")
        assert manifest.labels == ("0", "1", "2")
        assert [r.path for r in rejected] == ["t.parquet:6"]
        assert "column 'y': expected a text, got -Infinity" in rejected[0].reason

    def test_rows_that_are_left_out_decide_no_range(self, tmp_path):
        columns = {
            "x": [1e9 if n in (5, 6) else n / 7 for n in range(40)],
            "who": [float("inf") if n == 5 else float(n) for n in range(40)],
            "when": [None if n == 6 else f"2024-01-01T00:{n:02d}" for n in range(40)],
            "y": [n / 3 for n in range(40)],
        }
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        stated = TableConfig(target="y", group="who", time="when")
        manifest, rejected, _ = read_table(tmp_path / "t.parquet", stated, "regression")
        assert [r.path for r in rejected] == ["t.parquet:6", "t.parquet:7"]
        assert manifest.spec.features[0].high == 39 / 7


def test_ranges_of_target_and_time_are_those_of_the_training_rows(late):
    run = config(**LATE)
    manifest, _ = assign_splits(read_table(late, run.table, "regression")[0], run)
    newest = max(record.time for record in manifest.split("train"))
    columns = {column.name: column for column in manifest.spec.columns}
    assert (columns["y"].low, columns["y"].high) == (0.0, 138.0)
    assert (columns["when"].low, columns["when"].high) == (parse_date("2024-01-01"), newest)


def test_a_table_of_bad_groups_is_refused_in_one_line(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0], "who": [float("inf")] * 2, "y": [1.0, 2.0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column 'who'") as caught:
        read_table(tmp_path / "t.parquet", TableConfig(target="y", group="who"), "regression")
    assert "\n" not in str(caught.value)
