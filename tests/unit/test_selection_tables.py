"""Model selection for tables: folds of rows, the metric that is compared, the constant answer and the report."""

import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marquee.training.core.config import named_config
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.progress import Progress
from marquee.training.selection.candidates import Candidate, read_ladder
from marquee.training.selection.chart import Point, draw
from marquee.training.selection.comparison import Comparison, compare, summarise
from marquee.training.selection.config import Rule
from marquee.training.selection.decide import FIRST, PAYS, TOO_SMALL, decide
from marquee.training.selection.footprint import Footprint
from marquee.training.selection.kinds import SELECTIONS, registered, selectable_for
from marquee.training.selection.measure import ACCURACY, Measure, error_measure
from marquee.training.selection.report import BASELINE, Baseline, Entry, Report
from marquee.training.selection.selectable import Folds
from marquee.training.selection.store import FoldResult, SelectionStore
from marquee.training.selection.tables import ClassificationSelection, RegressionSelection, TableSelection
from marquee.training.tasks import default_config
from marquee.training.tasks.tabular.config import (
    TableModelConfig,
    TableRunConfig,
    TableSplitConfig,
    TabularClassificationConfig,
    TabularRegressionConfig,
)
from marquee.training.tasks.tabular.manifest import TableManifest
from marquee.training.tasks.tabular.split import assign_splits
from marquee.training.tasks.tabular.table_config import TableConfig

PRICES = TableConfig(target="price")
KINDS = TableConfig(target="kind")


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def houses(count: int = 60, seed: int = 0) -> list[tuple[float, ...]]:
    """Area, age and price; all rows differ."""
    rng = np.random.default_rng(seed)
    area, age = rng.uniform(40, 200, count).round(1), rng.uniform(0, 90, count).round(2)
    return list(zip(area.tolist(), age.tolist(), (3 * area - age).round(2).tolist(), strict=True))


def regression(table: TableConfig = PRICES, **parts: object) -> TabularRegressionConfig:
    return TabularRegressionConfig(table=table, **parts)  # type: ignore[arg-type]


def read(path: Path, config: TableRunConfig) -> TableManifest:
    selectable: TableSelection = selectable_for(config.task)  # type: ignore[assignment]
    return selectable.read(config, path, Progress(quiet=True))[0]


def folds_of(path: Path, config: TableRunConfig, count: int) -> Folds:
    return selectable_for(config.task).folds(config, read(path, config), count)


def held_out(folds: Folds) -> list[list[bytes]]:
    return [[record.row for record in fold.split("test")] for fold in folds.manifests]


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    return write(tmp_path / "t.csv", ("area", "age", "price"), houses())


class TestFoldsAtRandom:
    def test_every_row_is_held_out_once_and_the_others_train_and_validate(self, prices):
        folds = folds_of(prices, regression(), 5)
        rows = [row for fold in held_out(folds) for row in fold]
        assert (len(rows), len(set(rows)), folds.items) == (60, 60, 60)
        for fold in folds.manifests:
            assert {len(fold.split("test")), len(fold.records)} == {12, 60}
            assert len(fold.split("val")) == pytest.approx(0.15 * 48, abs=1)

    def test_they_depend_on_the_seed_and_not_on_the_order_of_the_lines(self, prices, tmp_path):
        moved = write(tmp_path / "moved.csv", ("area", "age", "price"), houses()[::-1])
        other = regression(loop=replace(regression().loop, seed=1))
        here = [set(fold) for fold in held_out(folds_of(prices, regression(), 5))]
        assert [set(fold) for fold in held_out(folds_of(moved, regression(), 5))] == here
        assert [set(fold) for fold in held_out(folds_of(prices, other, 5))] != here

    def test_classes_keep_their_shares(self, tmp_path):
        kinds = ["common"] * 40 + ["rare"] * 10
        rows = [(area, age, kind) for (area, age, _), kind in zip(houses(50), kinds, strict=True)]
        path = write(tmp_path / "t.csv", ("area", "age", "kind"), rows)
        for fold in folds_of(path, TabularClassificationConfig(table=KINDS), 5).manifests:
            assert Counter(record.target for record in fold.split("test")) == {"common": 8, "rare": 2}
            assert {record.target for record in fold.split("val")} == {"common", "rare"}

    def test_groups_stay_whole(self, tmp_path):
        rows = [(*row, f"street {i // 4}") for i, row in enumerate(houses())]
        path = write(tmp_path / "t.csv", ("area", "age", "price", "street"), rows)
        config = regression(TableConfig(target="price", group="street"))
        for fold in folds_of(path, config, 5).manifests:
            places = defaultdict(set)
            for record in fold.records:
                places[record.group].add(record.split)
            assert all(len(splits) == 1 for splits in places.values())

    def test_equal_rows_stay_together(self, tmp_path):
        path = write(tmp_path / "t.csv", ("area", "age", "price"), houses(30) * 2)
        for fold in folds_of(path, regression(), 5).manifests:
            for split in ("train", "val", "test"):
                assert set(Counter(record.row for record in fold.split(split)).values()) == {2}

    def test_what_is_fitted_is_fitted_on_the_training_rows(self, tmp_path):
        rows = [(*row[:2], "odd" if i == 0 else "ab"[i % 2], row[2]) for i, row in enumerate(houses())]
        path = write(tmp_path / "t.csv", ("area", "age", "heating", "price"), rows)
        for fold in folds_of(path, regression(), 5).manifests:
            split, _ = assign_splits(fold, regression())
            assert [record.split for record in split.records] == [record.split for record in fold.records]
            areas = [float(record.row.split(b":")[1].split(b",")[0]) for record in split.split("train")]
            columns = {column.name: column for column in split.spec.columns}
            assert (columns["area"].low, columns["area"].high) == (min(areas), max(areas))
            trained = any(b"odd" in record.row for record in split.split("train"))
            assert ("odd" in columns["heating"].categories) == trained

    def test_too_few_rows(self, tmp_path):
        path = write(tmp_path / "t.csv", ("area", "age", "price"), houses(9))
        with pytest.raises(DataError, match="9 separate rows or groups are too few for 5 folds; use fewer --folds"):
            folds_of(path, regression(), 5)

    def test_a_class_that_is_too_small_is_named(self, tmp_path):
        rows = [(area, age, "rare" if i < 3 else "ab"[i % 2]) for i, (area, age, _) in enumerate(houses())]
        path = write(tmp_path / "t.csv", ("area", "age", "kind"), rows)
        with pytest.raises(DataError, match="class 'rare' has 3 separate rows or groups, too few for 4 folds"):
            folds_of(path, TabularClassificationConfig(table=KINDS), 4)


class TestFoldsByTime:
    TIMED = TableConfig(target="price", time="day")

    def dated(self, path: Path, days: Sequence[int], **more: Sequence[object]) -> Path:
        rows = [(*row, day, *extra) for row, day, *extra in zip(houses(len(days)), days, *more.values(), strict=True)]
        return write(path / "t.csv", ("area", "age", "price", "day", *more), rows)

    def test_each_fold_lies_after_all_that_it_was_trained_on(self, tmp_path):
        days = np.random.default_rng(0).permutation(60).tolist()
        folds = folds_of(self.dated(tmp_path, days), regression(self.TIMED), 5)
        assert [len(fold.split("test")) for fold in folds.manifests] == [10] * 5
        for number, fold in enumerate(folds.manifests, start=1):
            train, val, test = ([record.time for record in fold.split(name)] for name in ("train", "val", "test"))
            assert len(train) + len(val) == 10 * number
            assert max(train) < min(val) <= max(val) < min(test)
        # 10/10, 10/20, ... 10/50
        assert folds.test_per_train == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
        assert "ordered by day" in folds.note

    def test_equal_times_stay_in_one_fold(self, tmp_path):
        folds = folds_of(self.dated(tmp_path, [i // 7 for i in range(63)]), regression(self.TIMED), 3)
        times = [{record.time for record in fold.split("test")} for fold in folds.manifests]
        assert sum(map(len, times)) == len(set.union(*times))

    def test_rows_may_be_shuffled_on_request(self, tmp_path):
        config = regression(self.TIMED, split=TableSplitConfig(by="random"))
        folds = folds_of(self.dated(tmp_path, list(range(60))), config, 5)
        assert (folds.note, folds.test_per_train, len(folds.manifests[0].records)) == ("", None, 60)

    def test_too_few_times(self, tmp_path):
        path = self.dated(tmp_path, [i % 3 for i in range(60)])
        with pytest.raises(DataError, match="3 different times are too few, .* --split.by random"):
            folds_of(path, regression(self.TIMED), 5)

    def test_a_class_that_appears_late_is_named(self, tmp_path):
        rows = [(area, age, i, "old" if i < 40 else "new") for i, (area, age, _) in enumerate(houses())]
        path = write(tmp_path / "t.csv", ("area", "age", "day", "kind"), rows)
        config = TabularClassificationConfig(table=TableConfig(target="kind", time="day"))
        with pytest.raises(DataError, match="class 'new' has no row before the rows of fold 1 of 3"):
            folds_of(path, config, 3)


class TestMeasure:
    def test_a_gain_in_errors_is_a_share_of_the_constant_answers(self):
        measure = error_measure("rmse", "rmses", "RMSE", "g", 800.0)
        assert measure.qualities([400.0, 200.0]) == [-0.5, -0.25]
        # 400 g to 200 g is a gain of a quarter of 800 g.
        gain = compare(measure.qualities([200.0, 210.0]), measure.qualities([400.0, 400.0]))
        assert gain.difference == pytest.approx(195 / 800)
        assert measure.text(measure.gain(gain.difference)) == "195.0"
        assert measure.phrase(297.25) == "297.2 g"

    @pytest.mark.parametrize(("scale", "text"), [(77.0, "54.12"), (0.02, "54.12346"), (5e6, "54"), (800.0, "54.1")])
    def test_four_digits_of_the_constant_answers_error_are_shown(self, scale, text):
        assert error_measure("rmse", "rmses", "RMSE", "", scale).text(54.123456) == text

    def test_accuracy(self):
        assert ACCURACY.qualities([0.5]) == [0.5]
        assert (ACCURACY.phrase(0.98765), ACCURACY.line({"accuracy": 0.98765})) == ("98.77 %", "accuracy 0.9877")
        with pytest.raises(ValueError, match="accuracy: has no value"):
            ACCURACY.of({"accuracy": None})

    def test_what_cannot_be_a_scale(self):
        with pytest.raises(ValueError, match="scale: expected more than 0"):
            Measure(metric="rmse", plural="rmses", title="RMSE", scale=0.0)

    def test_an_interval_of_errors_may_exceed_one(self):
        assert summarise([50.0, 60.0], 0.0, np.inf).high > 60

    def test_folds_forward_in_time_overlap_more(self):
        # Mean .03, variance .00025, k = 5; test/train .5 instead of .25: t = .03 / sqrt(.7 * .00025) = 2.267787.
        comparison = compare([0.91, 0.93, 0.92, 0.94, 0.95], [0.90] * 5, 0.5)
        assert comparison.p == pytest.approx(0.085929, abs=1e-5)

    def test_the_simplest_within_noise_is_chosen(self):
        measure = error_measure("rmse", "rmses", "RMSE", "", 77.0)
        values = {
            "linear": [55.0, 56.0, 54.0, 55.5, 54.5],
            "mlp": [54.95, 55.9, 53.9, 55.4, 54.4],  # by less than --min-gain, 0.002 x 77
            "tabm": [50.0, 51.0, 49.5, 50.5, 49.0],
        }
        decision = decide({name: measure.qualities(rmses) for name, rmses in values.items()}, Rule())
        assert decision.choice == "tabm"
        assert [step.verdict for step in decision.steps] == [FIRST, TOO_SMALL, PAYS]


class TestConstantAnswer:
    def test_the_mean_of_the_other_rows(self, prices):
        selectable, folds = RegressionSelection(), folds_of(prices, regression(), 5)
        baseline = selectable.baseline(folds)
        fold = folds.manifests[0]
        known = np.mean([record.number for record in fold.records if record.split != "test"])
        expected = np.sqrt(np.mean([(record.number - known) ** 2 for record in fold.split("test")]))
        assert baseline[0]["rmse"] == pytest.approx(expected)
        measure = selectable.measure(folds, baseline)
        assert measure.scale == pytest.approx(np.mean([metrics["rmse"] for metrics in baseline]))

    def test_the_most_common_class(self, tmp_path):
        rows = [(area, age, "ab"[i % 3 == 0]) for i, (area, age, _) in enumerate(houses())]
        path = write(tmp_path / "t.csv", ("area", "age", "kind"), rows)
        folds = folds_of(path, TabularClassificationConfig(table=KINDS), 5)
        metrics = ClassificationSelection().baseline(folds)
        assert [values["accuracy"] for values in metrics] == pytest.approx([2 / 3] * 5)
        assert metrics[0]["balanced_accuracy"] == 0.5

    def test_the_unit_of_the_target_is_shown(self, prices):
        config = regression(TableConfig(target="price", units={"price": "EUR"}))
        folds = folds_of(prices, config, 3)
        selectable = RegressionSelection()
        assert selectable.measure(folds, selectable.baseline(folds)).heading == "RMSE EUR"


class TestCandidates:
    @pytest.mark.parametrize("task", ["tabular-regression", "tabular-classification"])
    def test_the_ladder_is_whole(self, task):
        ladder = read_ladder(registered(task).candidates)
        base = default_config(task)
        resolved = {candidate.name: (candidate.kind, candidate.resolve(base)) for candidate in ladder}
        selectable_for(task).check(resolved, base)
        models = [config.model for _, config in resolved.values()]
        assert [model.name for model in models] == ["linear", "linear", "mlp", "mlp", "tabm"]
        assert [model.embeddings for model in models[2:4]] == ["none", "periodic"]

    @pytest.mark.parametrize(
        ("candidate", "message"),
        [
            (Candidate(name="a", kind="probe"), "candidate a: kind: expected train"),
            (
                Candidate(name="a", config={"table": {"target": "age"}}),
                "candidate a: config.table.target: must be the same for all candidates",
            ),
            (Candidate(name="a", config={"split": {"by": "random"}}), "candidate a: config.split.by: must be the same"),
        ],
    )
    def test_all_are_measured_on_the_same_rows(self, candidate, message):
        base = regression()
        with pytest.raises(TrainingError, match=message):
            RegressionSelection().check({candidate.name: (candidate.kind, candidate.resolve(base))}, base)

    def test_a_setting_that_is_wrong_is_named(self):
        with pytest.raises(TrainingError, match=r"candidate a: config.model.name: expected one of 'linear'"):
            Candidate(name="a", config={"model": {"name": "forest"}}).resolve(regression())

    def test_a_package_that_is_not_installed(self, prices, monkeypatch):
        manifest, selectable = read(prices, regression()), RegressionSelection()
        assert selectable.unavailable(regression(), manifest) == ""
        monkeypatch.setitem(sys.modules, "tabm", None)
        config = regression(model=TableModelConfig(name="tabm"))
        assert "--model.name tabm needs a package" in selectable.unavailable(config, manifest)

    def test_tasks(self):
        assert all(registered(task).candidates.is_file() for task in SELECTIONS)
        with pytest.raises(TrainingError, match="--task chess: candidates cannot be compared"):
            selectable_for("chess")

    def test_a_ladder_is_no_recipe(self):
        with pytest.raises(TrainingError, match=r"no recipe of that name \((?!.*ladder)"):
            named_config("ladder-tabular")


def result(rmse: float, latency: float = 0.1) -> FoldResult:
    footprint = Footprint(latency_ms=latency, weight_mb=0.001, parameters=11)
    return FoldResult(metrics={"rmse": rmse, "mae": rmse, "r2": None}, items=12, seconds=1.0, footprint=footprint)


class TestStore:
    def test_a_fold_is_kept_with_the_names_of_its_task(self, tmp_path):
        store = SelectionStore(tmp_path, ("rmse", "mae", "r2"), "rows")
        store.write("linear", 1, result(54.0))
        assert '"rows": 12' in (tmp_path / "folds" / "linear" / "1.json").read_text()
        assert store.read("linear", 1) == result(54.0)
        assert store.read("linear", 2) is None

    @pytest.mark.parametrize(("text", "message"), [("{}", "rmse: missing"), ("[]", "expected an object")])
    def test_a_damaged_file_is_named(self, tmp_path, text, message):
        store = SelectionStore(tmp_path, ("rmse", "mae", "r2"), "rows")
        (tmp_path / "folds" / "linear").mkdir(parents=True)
        (tmp_path / "folds" / "linear" / "1.json").write_text(text)
        with pytest.raises(TrainingError, match=f"1.json: {message}.* delete the file"):
            store.read("linear", 1)

    def test_other_columns_are_another_selection(self, prices, tmp_path):
        selectable = RegressionSelection()
        fewer = regression(TableConfig(target="price", ignore=("age",)))
        lines = [selectable.digest_lines(read(prices, config)) for config in (regression(), fewer)]
        store = SelectionStore(tmp_path / "out", selectable.recorded, selectable.unit)
        store.begin(lines[0], 5, 0, {})
        store.begin(lines[0][::-1], 5, 0, {})
        with pytest.raises(TrainingError, match="was begun with other rows"):
            store.begin(lines[1], 5, 0, {})

    def test_a_selection_from_before_a_field_was_introduced_is_continued(self, tmp_path):
        store = SelectionStore(tmp_path, ("rmse",), "rows")
        config = regression(TableConfig(target="price", ignore=("age",)))
        candidates = {"linear": (Candidate(name="linear"), config)}
        store.begin(["row"], 5, 0, candidates)
        request = json.loads((tmp_path / "request.json").read_text())
        del request["candidates"]["linear"]["config"]["loop"]["passes"]
        (tmp_path / "request.json").write_text(json.dumps(request))
        store.begin(["row"], 5, 0, candidates)
        other = replace(config, table=TableConfig(target="price"))
        with pytest.raises(TrainingError, match="candidate linear was begun with table.ignore"):
            store.begin(["row"], 5, 0, {"linear": (Candidate(name="linear"), other)})


class TestReport:
    MEASURE = error_measure("rmse", "rmses", "RMSE", "g", 800.0)

    def report(self, beaten: bool = True) -> Report:
        entries = (
            Entry(name="linear", kind="train", results=[result(value) for value in (300.0, 310.0, 290.0)]),
            Entry(name="mlp", kind="train", results=[result(value) for value in (280.0, 320.0, 285.0)]),
            Entry(name="tabm", kind="train", skipped="needs a package"),
        )
        qualities = {entry.name: self.MEASURE.qualities(entry.values(self.MEASURE)) for entry in entries[:2]}
        return Report(
            entries=entries,
            decision=decide(qualities, Rule()),
            ended="all candidates measured",
            folds=3,
            items=36,
            unit="rows",
            item="row",
            latency="for single rows",
            val_caveat="which also served early stopping",
            measure=self.MEASURE,
            baseline=Baseline(values=(800.0, 790.0, 810.0), gain=Comparison(difference=0.6, p=0.01), beaten=beaten),
            note="",
            winner={"split": "val", "rmse": 250.0},
            result="val RMSE 250 on 5 rows",
        )

    def test_table_and_summary(self):
        report = self.report()
        lines = report.table().splitlines()
        assert "| RMSE g |" in lines[0]
        assert lines[2].split()[1:5] == ["constant", "answer", "|", "3/3"]
        assert "300.0" in lines[3]
        assert "chosen" in lines[3]
        assert "+5.0 (p = 0.7" in lines[4]
        assert report.summary() == (
            "Chosen: linear, RMSE 300.0 g over 3 folds of 36 rows; all candidates measured.\n"
            "Trained on all training rows: val RMSE 250 on 5 rows (which also served early stopping; rely on the RMSE "
            "over the folds)."
        )
        assert report.notes() == [
            "tabm was skipped: needs a package",
            "mlp was better than linear by 5.0 g, which is not significant over 3 folds; more --folds (and a new "
            "--out) may confirm it",
        ]

    def test_a_choice_that_is_no_better_than_a_constant_is_told(self):
        assert "linear is not significantly better than the best constant answer" in self.report(False).notes()[-1]

    def test_files(self, tmp_path):
        report = self.report()
        report.write(tmp_path)
        assert (
            "Gain: mean reduction of the RMSE of the best simpler candidate in g"
            in (tmp_path / "selection.md").read_text()
        )
        document = report.to_json()
        assert (document["rows"], document["winner"]) == (36, "linear")
        rows = {row["candidate"]: row for row in document["candidates"]}
        assert rows[BASELINE]["rmses"] == [800.0, 790.0, 810.0]
        assert rows["mlp"]["difference"] == pytest.approx(5.0)
        picture = (tmp_path / "selection.svg").read_text()
        assert picture.startswith("<?xml")
        with open(tmp_path / "selection.csv", newline="") as stream:
            assert [row["verdict"] for row in csv.DictReader(stream)][:2] == ["baseline", "chosen"]

    def test_equal_points_give_equal_pictures(self):
        points = [Point("a", 300.0, 270.0, 330.0, 0.1, 0.001), Point("b", 290.0, 250.0, 330.0, 0.2, 0.02)]
        assert draw(points, "a", 3, "svg", self.MEASURE, "row") == draw(points, "a", 3, "svg", self.MEASURE, "row")
