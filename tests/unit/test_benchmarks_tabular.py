"""The benchmarks of tables on tiny inputs; nothing here is timed, and no number of a model is judged."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.results import origin, read_result, write_result
from benchmarks.tabular.closed_form import OPTIONS, least_squares
from benchmarks.tabular.contenders import CONTENDERS, FASTAPI, FASTAPI_WORKERS, MARQUEE, TITLES
from benchmarks.tabular.coverage import Coverage, measure
from benchmarks.tabular.datasets import SOURCES, Table, load_table
from benchmarks.tabular.place import Model, Place, read_place
from benchmarks.tabular.quality import FOLDS, SETTINGS, WANTED, Quality, folds
from benchmarks.tabular.scikit import ESTIMATORS, MAX_CATEGORIES, matrix, rmse
from benchmarks.tabular.serving import LOADS, Serving, as_json, bodies
from benchmarks.tabular.tables import origin as origin_of
from benchmarks.tabular.tables import tables
from marquee.training.core.errors import DataError

MACHINE = {"cpu": "A CPU", "cores": 2, "isa": "AVX2", "isa_flags": ["avx2"], "threads": 2, "load": 0.0}


@pytest.fixture
def table() -> Table:
    """Numbers and categories, each with a missing value; the target is 2 * size, and 10 more for b."""
    rows = (("1", "a", "2"), ("2", "b", "14"), ("", "a", "6"), ("4", "", "8"), ("5", "b", "20"), ("6", "a", "12"))
    return Table(columns=("size", "kind", "price"), rows=rows, target="price", source="here")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution that consists of one file, which is read by its path alone."""

    def write(package: str, version: str, file: str, content: str) -> None:
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.write_text(content)
        (path.parent / "__init__.py").write_text("raise ImportError('nobody imports me')")
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{file},,\n")
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_diabetes_are_scikit_learns_in_their_own_units():
    diabetes = load_table("diabetes")
    assert len(diabetes) == 442
    assert diabetes.rows[0][:3] == ("59", "2", "32.1")
    assert diabetes.targets[0] == 151
    assert "progression" not in diabetes.features


def test_a_csv_file_of_a_package_is_read_without_an_import(install):
    source = SOURCES["penguins"]
    install(
        source.package, source.version, source.file, "species,body_mass_g,sex\nA,3750,NA\nB,NA,male\nC,3800,female\n"
    )
    penguins = load_table("penguins")
    assert penguins.rows == (("A", "3750", ""), ("C", "3800", "female"))
    assert penguins.source == "palmerpenguins 0.1.6"


def test_a_json_file_of_a_package_is_read_without_an_import(install):
    source = SOURCES["cars"]
    cars = [
        {"Name": "a", "Miles_per_Gallon": 18.5},
        {"Name": None, "Miles_per_Gallon": 3},
        {"Name": "b", "Miles_per_Gallon": None},
    ]
    install(source.package, source.version, source.file, json.dumps(cars))
    assert load_table("cars").rows == (("a", "18.5"), ("", "3"))


def test_another_version_is_refused(install):
    source = SOURCES["cars"]
    install(source.package, "0.8.0", source.file, "[]")
    with pytest.raises(
        DataError, match=r"vega_datasets 0\.8\.0 is installed, .*pip install --no-deps vega_datasets==0\.9\.0"
    ):
        load_table("cars")


def test_a_package_without_the_file_is_refused(install):
    source = SOURCES["diamonds"]
    install(source.package, source.version, "plotnine/other.csv", "")
    with pytest.raises(DataError, match=r"has no file plotnine/data/diamonds\.csv"):
        load_table("diamonds")


def test_a_table_is_written_and_read(tmp_path, table):
    assert Table.read(table.write(tmp_path / "all.csv"), "price").rows == table.rows
    some = Table.read(table.write(tmp_path / "some.csv", [2, 0]), "price")
    assert some.rows == (table.rows[2], table.rows[0])


def test_the_matrix_has_numbers_categories_and_missing_values(table):
    values, (numbers, categories), names = matrix(table)
    assert (numbers, categories, names) == ([0], [1], ("size", "kind"))
    assert values[0].tolist() == [1.0, "a"]
    assert np.isnan(values[2, 0])
    assert values[3, 1] == ""


def test_a_column_with_too_many_categories_is_left_out():
    rows = tuple((f"name {number}", str(number), str(number)) for number in range(MAX_CATEGORIES + 1))
    _, _, names = matrix(Table(columns=("name", "size", "price"), rows=rows, target="price", source="here"))
    assert names == ("size",)


@pytest.mark.parametrize("contender", ESTIMATORS)
def test_scikit_learn_takes_missing_and_unseen_values(table, contender):
    values, columns, _ = matrix(table)
    fitted = ESTIMATORS[contender](columns).fit(values, table.targets)
    answers = fitted.predict(np.array([[np.nan, "never seen"], [3.0, ""]], object))
    assert np.isfinite(answers).all()
    assert rmse(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == pytest.approx(2**0.5)


def test_least_squares_finds_the_weights_that_made_the_targets(table):
    complete = Table(columns=table.columns, rows=(*table.rows[:2], *table.rows[4:]), target="price", source="here")
    assert least_squares(complete, np.arange(4)) == pytest.approx(complete.targets)


def test_folds_are_disjoint_and_the_same_each_time():
    diabetes = load_table("diabetes")
    parts = folds(diabetes)
    assert len(parts) == FOLDS
    assert sorted(number for _, held_out in parts for number in held_out.tolist()) == list(range(len(diabetes)))
    for (rows, held_out), (again, _) in zip(parts, folds(diabetes), strict=True):
        assert not set(rows.tolist()) & set(held_out.tolist())
        assert np.array_equal(rows, again)


def test_every_data_set_has_a_goal():
    assert set(SETTINGS) == set(WANTED) == {"diabetes", *SOURCES}
    assert set(OPTIONS) <= set(SETTINGS)


def test_coverage_is_that_of_a_real_run(tmp_path):
    result = read_result(measure(Coverage(splits=1, results=tmp_path)))
    (values,) = result["series"].values()
    assert result["settings"]["rows"] == {"train": 295, "val": 59, "test": 88}
    assert 0 <= values["coverage"][0] <= 1
    assert "| marquee linear |" in tables(result)
    assert "1 splits (295 train, 59 val, 88 test)" in origin_of(result)


def test_bodies_are_rows_of_the_table_again_and_again(table):
    asked = bodies(table)
    assert set(asked) == set(LOADS)
    assert len({len(json.loads(body)["instances"]) for body in asked["row@16"]}) == 1
    many = json.loads(asked["table@1"][0])["instances"]
    assert len(many) == 10_000
    assert many[:4] == [*as_json(table)][:4]
    assert many[2] == {"size": None, "kind": "a"}
    assert many[3] == {"size": 4, "kind": None}


def test_the_peer_answers_as_its_pipeline(tmp_path, table, monkeypatch):
    place = Place(port=1, workers=1, data=str(table.write(tmp_path / "data.csv")), target="price")
    for name, value in place.as_environment().items():
        monkeypatch.setenv(name, value)
    assert read_place() == place
    values, columns, _ = matrix(table)
    expected = ESTIMATORS["scikit-learn Ridge"](columns).fit(values, table.targets).predict(values)
    assert Model(place).answer(as_json(table)) == pytest.approx(expected)


def test_the_peer_answers_over_http(tmp_path, table, monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from benchmarks.tabular.contenders import Site
    from benchmarks.tabular.serving import _wait

    site = Site(work=tmp_path, target="price")
    table.write(site.data)
    (body,) = bodies(table)["table@1"]
    with CONTENDERS[FASTAPI](site) as running:
        _wait(running, bodies(table)["row@1"][0], time.monotonic() + 120)
        assert len(running.ask(body)) == 10_000


def made(folder: Path, name: str, settings, series):
    source = {**origin(name), "machine": MACHINE, "date": "2026-01-02T03:04:05+00:00", "command": "python -m x"}
    return read_result(write_result(folder, source, settings, series))


def test_the_table_of_quality_says_whether_the_goal_is_met(tmp_path):
    settings = {
        "rows": 10,
        "source": "here 1.0",
        "wanted": 2.0,
        "versions": {"scikit-learn": "1.9"},
    }
    series = {
        "theirs": {"rmse": [1.0, 2.0], "seconds": [1.0, 3.0]},
        "marquee mlp": {"rmse": [2.0, 3.0], "seconds": [1.0, 1.0]},
    }
    result = made(tmp_path, "quality_cars", settings, series)
    lines = tables(result).splitlines()
    assert lines[0] == "|  | mean RMSE | wanted | fold 1 | fold 2 | seconds a fold |"
    assert lines[2] == "| theirs | 1.500 | – | 1.000 | 2.000 | 2.0 |"
    assert lines[3] == "| marquee mlp | 2.500 | at most 2, **missed** | 2.000 | 3.000 | 1.0 |"
    assert origin_of(result).startswith("10 rows of here 1.0; 2 folds; A CPU")


def test_the_table_of_the_closed_form_has_a_row_for_each_data_set(tmp_path):
    values = {"difference": 1e-9, "rows": 5.0, "steps": 300.0, "rate": 0.1, "momentum": 0.9, "tolerance": 1e-9}
    series = {"penguins": {name: [value] for name, value in values.items()}}
    result = made(tmp_path, "closed_form", {"wanted": 1e-6}, series)
    assert "| penguins | 5 | 1.0e-09 | at most 1e-06, met | 1e-09 | 300 | 0.100 | 0.900 |" in tables(result)


def test_the_tables_of_serving_judge_ratios_within_rounds(tmp_path):
    def values(rate: float, latency: float) -> dict[str, list[float]]:
        metrics = {"p50_ms": latency, "p99_ms": latency, "cpu_ms": 1.0, "errors": 0.0, "other_cores": 0.1}
        found = {f"{load}/{name}": [value] * 2 for load in LOADS for name, value in metrics.items()}
        rates = {f"{load}/requests_per_second": [rate, 2 * rate] for load in LOADS}
        return {**found, **rates, "start_seconds": [1.0, 1.0], "pss_mb": [1.0, 1.0]}

    series = {MARQUEE: values(400, 4), FASTAPI: values(100, 9), FASTAPI_WORKERS: values(200, 9)}
    settings = {"seconds": 3.0, "warmup": 8.0, "versions": {"fastapi": "1"}}
    result = made(tmp_path, "serving", settings, series)
    text = tables(result)
    assert "at least 3x | 4.00x, met | 2.00x, **missed** |" in text
    assert "at most 5 ms | 4.0 ms, met | – |" in text
    assert f"| {TITLES[MARQUEE]} | 600.0 (400.0 to 800.0) |" in text
    assert "Loads of 3 s after 8 s of warming; fastapi 1." in origin_of(result)
    del result["series"][FASTAPI_WORKERS]
    assert "not measured" in tables(result)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="rounds: expected at least 1"):
        Serving(rounds=0)
    with pytest.raises(ValueError, match="contenders: no 'nobody'"):
        Serving(contenders=("nobody",))
    with pytest.raises(ValueError, match="splits: expected at least 1"):
        Coverage(splits=0)
    with pytest.raises(ValueError, match="seeds: expected at least 1"):
        Quality(seeds=0)
