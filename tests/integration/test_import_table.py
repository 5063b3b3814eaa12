"""scripts/import_model.py with a scikit-learn pipeline: the bundle answers as scikit-learn does."""

import csv
import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.serving.archive import open_archive
from marquee.training.core.errors import ExportError, TrainingError
from marquee.training.core.progress import Progress
from marquee.training.importing import scikit
from marquee.training.importing.scikit import import_table
from marquee.training.importing.scikit_config import TableImportConfig
from tests.lazily import lazily

skops_io = lazily("skops.io")

DATA = load_diabetes(scaled=False)
NAMES = list(DATA.feature_names)


def rows() -> np.ndarray:
    """Real rows with a text for the sex, a column that says nothing, and every seventh bmi missing."""
    table = np.concatenate([DATA.data.astype(object), np.full((len(DATA.data), 1), "x", object)], axis=1)
    table[:, 1] = np.where(DATA.data[:, 1] == 1, "female", "male")
    table[::7, 2] = np.nan
    return table


ROWS = rows()
LABELS = np.array(["low", "middle", "high"])[np.digitize(DATA.target, [100, 180])]


def preparation():
    number = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), PolynomialFeatures(2))
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer([("number", number, slice(2, 10)), ("text", text, [1])], remainder="drop")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two fitted models and their tables."""
    folder = tmp_path_factory.mktemp("scikit")
    regression = TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)
    for name, model, target in (
        ("number", make_pipeline(preparation(), regression), DATA.target),
        ("label", make_pipeline(preparation(), LogisticRegression(max_iter=200, C=0.1)), LABELS),
    ):
        skops_io.dump(model.fit(ROWS, target), folder / f"{name}.skops")
        with open(folder / f"{name}.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([*NAMES, "note", "target"])
            for row, answer in zip(ROWS, target, strict=True):
                writer.writerow(["" if cell != cell else cell for cell in row] + [answer])
    return folder


def config(models, name, **options):
    return TableImportConfig(model=models / f"{name}.skops", data=models / f"{name}.csv", target="target", **options)


def requests(count):
    """The first rows as JSON objects, with what the model does not use."""
    return [
        {name: None if cell != cell else cell for name, cell in zip([*NAMES, "note"], row, strict=True)}
        for row in ROWS[:count].tolist()
    ]


def answered(folder, count):
    """The served answers to the first rows."""
    predictor = Predictor.load(folder / "bundle")
    source = predictor.spec.input.create()
    items, _ = source.opener().items(json.dumps(requests(count)).encode())
    return predictor.output.predictions(predictor.outputs(source.collate(items).inputs))


@pytest.mark.slow
def test_a_regression_from_the_command_line(models, script, tmp_path):
    given = ["--model", models / "number.skops", "--data", models / "number.csv", "--target", "target"]
    told = script("import_model", *given, "--licence", "CC0", "--out", tmp_path / "run")
    lines = told.stdout.splitlines()
    assert lines[0].startswith(
        "Pipeline(ColumnTransformer(Pipeline(SimpleImputer, StandardScaler, PolynomialFeatures), "
    )
    assert "equals scikit-learn on all 442 rows" in lines[2]
    assert lines[3].startswith("test RMSE ")
    assert "note: The estimator does not use age, note." in lines
    assert "next: " in lines[-1]
    model = skops_io.load(models / "number.skops", trusted=["numpy.dtype"])
    answers = answered(tmp_path / "run", 50)
    np.testing.assert_allclose([one.value for one in answers], model.predict(ROWS[:50]), rtol=1e-10)
    assert all(one.interval[0] < one.value < one.interval[1] for one in answers)

    again = script("evaluate", tmp_path / "run", "--data", models / "number.csv", "--json")
    found = json.loads(again.stdout)
    assert found["rows"] == 442
    assert found["seen"] is None
    script("package", tmp_path / "run", "--name", "number", "--store", tmp_path / "store")
    with open_archive(tmp_path / "store" / "number.mar") as bundle:
        predictor = Predictor.load(bundle)
        assert predictor.spec.provenance["licence"] == "CC0"
        assert predictor.spec.provenance["imported"]["format"].startswith("scikit-learn")
        assert replay(predictor) == []
    there = script("import_model", *given, "--out", tmp_path / "run", check=False)
    assert there.stderr == f"error: --out {tmp_path / 'run'}: exists already; choose a new folder\n"


def test_probabilities_with_and_without_calibration(models, tmp_path):
    model = skops_io.load(models / "label.skops", trusted=["numpy.dtype"])
    expected = model.predict_proba(ROWS[:50])
    for calibrate in (False, True):
        out = tmp_path / f"run{calibrate}"
        imported = import_table(config(models, "label", calibrate=calibrate, top_k=2), out, Progress(quiet=True))
        assert imported.spec.task == "tabular-classification"
        assert imported.spec.output.labels == ("high", "low", "middle")
        assert imported.metrics["split"] == "test"
        assert imported.metrics["accuracy"] > 0.5
        temperature = imported.spec.output.calibration.temperature
        assert (temperature == 1) != calibrate
        powers = expected ** (1 / temperature)
        got = np.array([one.probabilities for one in answered(out, 50)])
        np.testing.assert_allclose(got, powers / powers.sum(axis=1, keepdims=True), atol=1e-12)
        assert len(imported.spec.samples) == scikit.MAX_SAMPLES
        assert (out / "predictions.csv").read_text().startswith("path,label,predicted,high,low,middle\n")


def test_rows_that_the_model_has_not_seen(models, tmp_path):
    import_table(config(models, "number"), tmp_path / "run", Progress(quiet=True))
    predictor = Predictor.load(tmp_path / "run" / "bundle")
    source = predictor.spec.input.create()
    row = requests(1)[0]
    asked = [row, {**row, "sex": "other"}, {**row, "bmi": 1e300}, {**row, "s1": "many"}, {**row, "bp": None}]
    items, _ = source.opener().items(json.dumps(asked).encode())
    batch = source.collate(items)
    assert [error is None for error in batch.errors] == [True, True, True, False, True]
    answers = predictor.output.predictions(predictor.outputs(batch.inputs))
    assert [one.unfamiliar for one in answers] == [(), ("sex",), ("bmi",), ()]
    assert all(np.isfinite(one.value) for one in answers)


def test_nothing_is_written_where_the_answers_differ(models, tmp_path, monkeypatch):
    monkeypatch.setattr("marquee.training.importing.scikit_compare.TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="its conversion differs from scikit-learn by"):
        import_table(config(models, "number"), tmp_path / "run", Progress(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_changed_program_is_refused(models, tmp_path):
    import_table(config(models, "number"), tmp_path / "run", Progress(quiet=True))
    program = tmp_path / "run" / "bundle" / "model.pt2"
    program.write_bytes(program.read_bytes()[:-1] + b"\x55")
    with pytest.raises(BundleError, match=r"model\.pt2: sha256"):
        Predictor.load(tmp_path / "run" / "bundle")


def test_usage(models, script, tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"")
    result = script("import_model", "--model", tmp_path / "model.pkl", "--out", tmp_path / "run", check=False)
    assert result.returncode == 1
    assert "a pickle (.pkl) runs code when it is loaded" in result.stderr
    given = ["--model", models / "number.skops", "--data", models / "number.csv"]
    result = script("import_model", *given, "--out", tmp_path / "run", check=False)
    assert result.returncode == 2
    assert "--target" in result.stdout + result.stderr
    more = ["--target", "target", "--interval", "2", "--out", tmp_path / "run"]
    result = script("import_model", *given, *more, check=False)
    assert result.returncode == 2
    assert "interval: expected" in result.stdout + result.stderr
    with pytest.raises(TrainingError, match="use --task tabular-regression"):
        import_table(config(models, "number", task="tabular-classification"), tmp_path / "run", Progress(quiet=True))
    assert not (tmp_path / "run").exists()
