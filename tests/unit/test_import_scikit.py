"""Scikit-learn estimators from files of skops: their conversion answers as they do, or is refused by name."""

import csv
import math
import zipfile

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.impute import SimpleImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVR

from marquee.handlers.inputs.table.spec import CODES, MISSING, NUMBERS, UNSEEN
from marquee.training.core.errors import DataError, ExportError, TrainingError
from marquee.training.importing.scikit import describe, verify
from marquee.training.importing.scikit_columns import positions
from marquee.training.importing.scikit_compare import check_equal
from marquee.training.importing.scikit_config import TableImportConfig
from marquee.training.importing.scikit_file import load_estimator
from marquee.training.importing.scikit_table import labels_of
from marquee.training.tasks.tabular.network import Served
from tests.lazily import lazily

skops_io = lazily("skops.io")

DATA = load_diabetes(scaled=False)
ROWS = 150
NUMBERS_ONLY = DATA.data[:ROWS]
TARGET = DATA.target[:ROWS]
NAMES = list(DATA.feature_names)
LABELS = np.array(["low", "middle", "high"])[np.digitize(TARGET, [100, 180])]
IS_HIGH = TARGET > 140
AGE, SEX, BMI = 0, 1, 2


def mixed() -> np.ndarray:
    """The same rows with a text for the sex and the decade of the age, and every tenth cell of some columns missing."""
    table = NUMBERS_ONLY.astype(object)
    table[:, SEX] = np.where(NUMBERS_ONLY[:, SEX] == 1, "female", "male")
    table[:, AGE] = [f"{int(age // 10) * 10}s" for age in NUMBERS_ONLY[:, AGE]]
    for column in (AGE, SEX, BMI):
        table[column::10, column] = np.nan
    return table


MIXED = mixed()
REST = list(range(BMI, len(NAMES)))


def write_table(path, cells, target, name="target"):
    """A CSV file of the rows; a missing cell is empty."""
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*NAMES, name])
        for row, answer in zip(cells, target, strict=True):
            writer.writerow(["" if cell is None or cell != cell else cell for cell in row] + [answer])
    return path


@pytest.fixture
def imported(tmp_path):
    """Imports a fitted estimator, with the table of the rows that it is asked for."""

    def bring(estimator, cells=NUMBERS_ONLY, target=TARGET, **options):
        skops_io.dump(estimator, tmp_path / "model.skops")
        data = write_table(tmp_path / "table.csv", cells, target)
        return verify(TableImportConfig(model=tmp_path / "model.skops", data=data, target="target", **options))

    return bring


def program(verified):
    return Served(verified.network, verified.manifest.spec).eval()


def few(estimator):
    """One that needs no convergence to be converted."""
    return estimator.set_params(max_iter=20)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        make_pipeline(StandardScaler(), Ridge()),
        make_pipeline(StandardScaler(with_mean=False), Lasso()),
        make_pipeline(StandardScaler(with_std=False), ElasticNet()),
        make_pipeline(MinMaxScaler((-1, 2), clip=True), SGDRegressor()),
        make_pipeline(RobustScaler(), HuberRegressor()),
        make_pipeline(RobustScaler(with_centering=False, with_scaling=False), MaxAbsScaler(), LinearSVR(max_iter=50)),
        make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
        make_pipeline(PolynomialFeatures(3, interaction_only=True, include_bias=False), StandardScaler(), Ridge()),
        make_pipeline(FunctionTransformer(np.log1p), "passthrough", FunctionTransformer(), Ridge()),
        make_pipeline(StandardScaler(), PoissonRegressor()),
        make_pipeline(StandardScaler(), TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1)),
        TransformedTargetRegressor(make_pipeline(StandardScaler(), Ridge()), transformer=StandardScaler()),
        TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler()),
        TransformedTargetRegressor(Ridge(), transformer=RobustScaler(with_centering=False)),
        TransformedTargetRegressor(Ridge()),
        make_pipeline(StandardScaler(), few(MLPRegressor(hidden_layer_sizes=(8, 4)))),
        make_pipeline(StandardScaler(), few(MLPRegressor(hidden_layer_sizes=(5,), activation="tanh"))),
        make_pipeline(ColumnTransformer([("few", OneHotEncoder(), [SEX])], remainder="passthrough"), Ridge()),
        make_pipeline(ColumnTransformer([("few", StandardScaler(), slice(2, 6))]), Ridge()),
    ],
    ids=describe,
)
def test_regressions_of_numbers_answer_as_scikit_learn(estimator, imported):
    verified = imported(estimator.fit(NUMBERS_ONLY, TARGET))
    assert len(verified.manifest.records) == ROWS
    np.testing.assert_allclose(verified.expected, estimator.predict(NUMBERS_ONLY), rtol=1e-12)
    assert verified.facts["largest_difference"] < 1e-12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LogisticRegression(), LABELS),
        (LogisticRegression(), IS_HIGH),
        (LogisticRegression(solver="liblinear"), np.where(IS_HIGH, "a", "b")),
        (SGDClassifier(loss="log_loss"), LABELS),
        (SGDClassifier(loss="log_loss"), IS_HIGH.astype(float)),
        (few(MLPClassifier((6,), activation="logistic")), LABELS),
        (few(MLPClassifier((6,), activation="identity")), IS_HIGH.astype(int)),
    ],
    ids=lambda value: describe(value) if hasattr(value, "fit") else f"{value.dtype.kind}{len(set(value))}",
)
def test_probabilities_are_scikit_learns(estimator, target, imported):
    model = make_pipeline(StandardScaler(), estimator).fit(NUMBERS_ONLY, target)
    verified = imported(model, target=target)
    np.testing.assert_allclose(verified.expected, model.predict_proba(NUMBERS_ONLY), atol=1e-12)
    assert verified.facts["largest_difference"] < 1e-12
    labels = verified.manifest.labels
    assert {record.target for record in verified.manifest.records} == set(labels)
    assert len(labels) == len(model.classes_)


def encoders():
    """What prepares the two columns of categories."""
    frequent = SimpleImputer(strategy="most_frequent")
    unknown = SimpleImputer(strategy="constant", fill_value="unknown")
    yield make_pipeline(frequent, OneHotEncoder(handle_unknown="ignore"))
    yield make_pipeline(unknown, OneHotEncoder(drop="first"))
    yield make_pipeline(frequent, OneHotEncoder(drop="if_binary", sparse_output=False))
    yield OneHotEncoder()  # a missing value is a category of its own
    yield OneHotEncoder(drop="first", handle_unknown="ignore")
    yield OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    yield make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), SimpleImputer(strategy="median")
    )
    yield make_pipeline(SimpleImputer(strategy="most_frequent", add_indicator=True), OneHotEncoder())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encoder", list(encoders()), ids=describe)
def test_categories_and_missing_values(encoder, imported):
    number = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    columns = ColumnTransformer([("text", encoder, [SEX, AGE]), ("number", number, [BMI, 5, 4])])
    model = make_pipeline(columns, Ridge()).fit(MIXED, TARGET)
    verified = imported(model, MIXED)
    np.testing.assert_allclose(verified.expected, model.predict(MIXED), rtol=1e-12)
    spec = verified.manifest.spec
    assert [column.name for column in spec.features] == ["age", "sex", "bmi", "s1", "s2"]
    assert [column.kind for column in spec.features] == ["category", "category", "number", "number", "number"]
    assert all(column.may_be_missing for column in spec.features)
    assert "The estimator does not use bp, s3, s4, s5, s6." in verified.facts["notes"]


def of_texts(handle_unknown="ignore"):
    columns = ColumnTransformer(
        [("text", OneHotEncoder(handle_unknown=handle_unknown), [SEX]), ("number", SimpleImputer(), [BMI])]
    )
    known = np.array([row for row in MIXED if isinstance(row[SEX], str)], dtype=object)
    return make_pipeline(columns, Ridge()).fit(known, np.arange(float(len(known)))), known


def test_unknown_and_missing_categories_have_zeros_and_are_unfamiliar(imported):
    model, known = of_texts()
    verified = imported(model, known, np.arange(len(known)))
    inputs = {NUMBERS: torch.full((3, 1), 25.0, dtype=torch.float64), CODES: torch.tensor([[UNSEEN], [MISSING], [2]])}
    values, outside = program(verified)(*inputs.values())
    asked = known[:3].copy()
    asked[:, BMI], asked[:, SEX] = 25.0, ["other", np.nan, "female"]
    np.testing.assert_allclose(values.numpy(), model.predict(asked), rtol=1e-12)
    assert outside.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_a_value_must_be_there_where_the_estimator_needs_one(imported):
    model, known = of_texts("error")
    verified = imported(model, MIXED, TARGET)
    sex, bmi = verified.manifest.spec.features
    assert (sex.may_be_missing, bmi.may_be_missing) == (False, True)
    assert len(verified.rejected) == ROWS - len(known)
    assert "column 'sex': a value is missing" in verified.rejected[0].reason
    plain = imported(Ridge().fit(NUMBERS_ONLY, TARGET))
    assert not any(column.may_be_missing for column in plain.manifest.spec.features)


def test_none_as_the_missing_value_and_a_number_as_one(imported):
    table = MIXED[:, [AGE, SEX, BMI]].copy()
    table[:, [AGE, SEX]] = [[None if cell != cell else cell for cell in row] for row in table[:, [AGE, SEX]]]
    table[table[:, 2] != table[:, 2], 2] = -1
    text = make_pipeline(
        SimpleImputer(missing_values=None, strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore")
    )
    columns = ColumnTransformer([("text", text, [0, 1]), ("number", SimpleImputer(missing_values=-1), [2])])
    model = make_pipeline(columns, Ridge()).fit(table, TARGET)
    cells = np.concatenate([table, NUMBERS_ONLY[:, 3:]], axis=1)
    verified = imported(model, cells, features=("age", "sex", "bmi"))
    np.testing.assert_allclose(verified.expected, model.predict(table), rtol=1e-12)
    assert [column.may_be_missing for column in verified.manifest.spec.features] == [True, True, False]


def test_booleans_and_numbers_as_categories(imported):
    cells = np.empty((ROWS, len(NAMES)), object)
    cells[:] = NUMBERS_ONLY
    cells[:, SEX] = NUMBERS_ONLY[:, SEX] == 2
    cells[:, AGE] = np.where(np.arange(ROWS) % 9, NUMBERS_ONLY[:, AGE] // 20, np.nan)
    model = make_pipeline(ColumnTransformer([("few", OneHotEncoder(), [AGE, SEX])]), Ridge()).fit(cells, TARGET)
    verified = imported(model, cells)
    np.testing.assert_allclose(verified.expected, model.predict(cells), rtol=1e-12)
    kinds = {column.name: (column.kind, column.may_be_missing) for column in verified.manifest.spec.features}
    assert kinds == {"age": ("number", True), "sex": ("boolean", False)}


def test_rows_with_a_label_that_the_estimator_does_not_know_are_left_out(imported):
    known = LABELS != "high"
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(NUMBERS_ONLY[known], LABELS[known])
    verified = imported(model, target=LABELS)
    assert verified.manifest.labels == ("low", "middle")
    assert len(verified.manifest.records) == known.sum()
    assert {row.reason for row in verified.rejected} == {"the estimator does not know the label 'high'"}
    with pytest.raises(DataError, match="no row has a label of the estimator, which are low, middle"):
        imported(model, target=np.where(known, "a", "b"))


def test_columns_are_matched_by_the_names_that_the_estimator_stores(imported):
    order = [5, 2, 0]
    columns = ColumnTransformer([("one", StandardScaler(), [0, 2])], remainder="drop")
    model = make_pipeline(columns, Ridge()).fit(NUMBERS_ONLY[:, order], TARGET)
    expected = model.predict(NUMBERS_ONLY[:, order])
    # As fitted on a data frame, whose columns are named.
    stored = model.named_steps["columntransformer"]
    stored.feature_names_in_ = np.array([NAMES[column] for column in order], dtype=object)
    stored.transformers_ = [(name, step, ["s2", "age"]) for name, step, _ in stored.transformers_[:1]]
    stored.feature_names_in_[0] = "s2"
    verified = imported(model)
    assert [column.name for column in verified.manifest.spec.features] == ["age", "s2"]
    assert NAMES[5] == "s2"
    np.testing.assert_allclose(verified.expected, expected, rtol=1e-12)


def test_an_extreme_row_has_a_finite_answer(imported):
    model = make_pipeline(FunctionTransformer(np.log), StandardScaler(), PoissonRegressor()).fit(NUMBERS_ONLY, TARGET)
    verified = imported(model)
    rows = torch.tensor(np.stack([NUMBERS_ONLY[0], np.full(len(NAMES), -1e300), np.full(len(NAMES), 1e300)]))
    values, outside = program(verified)(rows)
    assert values.isfinite().all()
    assert outside.sum(dim=1).tolist() == [0, len(NAMES), len(NAMES)]
    assert values[0] == pytest.approx(model.predict(NUMBERS_ONLY[:1])[0])


FITTED = Ridge().fit(NUMBERS_ONLY, TARGET)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_imported_is_named_with_its_place(imported):
    prepare = ColumnTransformer([("a", Binarizer(), [0]), ("b", "passthrough", [1])])
    weighted = ColumnTransformer([("a", "passthrough", [0])], transformer_weights={"a": 2})
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, max_categories=3)
    for estimator, message in [
        (
            make_pipeline(PowerTransformer(), Ridge()),
            "> powertransformer: PowerTransformer cannot be imported",
        ),
        (
            make_pipeline(prepare, Ridge()),
            r"\(ColumnTransformer\) > a: Binarizer cannot be imported",
        ),
        (make_pipeline(Binarizer(), Ridge()), "transformers that can: ColumnTransformer, FunctionTransformer, "),
        (
            make_pipeline(weighted, Ridge()),
            "weights",
        ),
        (make_pipeline(OneHotEncoder(min_frequency=3), Ridge()), "infrequent categories cannot be imported"),
        (make_pipeline(ordinal, Ridge()), "infrequent categories cannot be imported"),
        (make_pipeline(OrdinalEncoder(), Ridge()), "no number for unknown categories"),
        (make_pipeline(FunctionTransformer(np.cbrt), Ridge()), "function cbrt cannot be imported; functions that can"),
        (make_pipeline(FunctionTransformer(np.log1p, kw_args={"dtype": "f8"}), Ridge()), "function has arguments"),
        (TransformedTargetRegressor(Ridge(), transformer=PowerTransformer()), "as a transform of the target"),
        (few(MLPRegressor(loss="poisson", hidden_layer_sizes=(3,))), "losses other than squared_error"),
        (
            make_pipeline(KernelRidge()),
            "> kernelridge: KernelRidge cannot be imported; models that can: ARDRegression, ",
        ),
        (make_pipeline(ExtraTreesRegressor(2)), "Pipeline > ExtraTreesRegressor > ExtraTreeRegressor: has types"),
    ]:
        with pytest.raises(TrainingError, match=message):
            imported(estimator.fit(NUMBERS_ONLY, TARGET))


@pytest.mark.filterwarnings("ignore")
def test_classifiers_that_cannot_be_imported(imported):
    for estimator, message in [
        (RidgeClassifier(), "RidgeClassifier cannot be imported: it gives no probabilities"),
        (SGDClassifier(), "loss='hinge': it gives no probabilities; fit it with loss='log_loss'"),
    ]:
        with pytest.raises(TrainingError, match=message):
            imported(estimator.fit(NUMBERS_ONLY, LABELS), target=LABELS)
    several = few(MLPClassifier((3,))).fit(NUMBERS_ONLY, np.stack([IS_HIGH, TARGET > 200], axis=1))
    with pytest.raises(TrainingError, match="several labels a row cannot be imported"):
        imported(several, target=IS_HIGH)


def test_a_column_has_one_kind(imported):
    columns = ColumnTransformer([("a", "passthrough", [0]), ("b", OneHotEncoder(), [1]), ("c", OneHotEncoder(), [1])])
    model = make_pipeline(columns, Ridge()).fit(MIXED[3:9, [BMI, SEX]], TARGET[3:9])
    columns.transformers_ = [("a", "passthrough", [0, 1]), *columns.transformers_[1:]]
    columns.transformers_[2] = ("c", StandardScaler().fit(NUMBERS_ONLY[:, :1]), [1])
    with pytest.raises(TrainingError, match=r"'sex' is used here as numbers, and by .* > b \(OneHotEncoder\) as cat"):
        imported(model, features=("bmi", "sex"))


def test_estimators_that_were_changed_are_refused(imported):
    for change, message in [
        ({"coef_": np.ones(3)}, "coef_ has 1 outputs of 3 columns; expected 1 of 10"),
        ({"coef_": np.ones((2, 10))}, "a model with several targets cannot be imported"),
        ({"coef_": np.full(10, np.nan)}, "coef_ has numbers that are not finite"),
        ({"coef_": "much"}, "coef_ is not an array of numbers"),
        ({"n_features_in_": 11}, "was fitted on 11 columns without names, and 10 are given"),
    ]:
        estimator = Ridge().fit(NUMBERS_ONLY, TARGET)
        for name, value in change.items():
            setattr(estimator, name, value)
        with pytest.raises(TrainingError, match=message):
            imported(estimator)
    with pytest.raises(TrainingError, match="is not fitted"):
        imported(make_pipeline(StandardScaler(), Ridge()))
    with pytest.raises(TrainingError, match="dict is not fitted, or is no estimator"):
        imported({"no": "estimator"})


def test_tables_that_do_not_fit(imported, tmp_path):
    with pytest.raises(DataError, match=r"has no column 'Age', which --features names; did you mean 'age'"):
        imported(FITTED, features=("Age", *NAMES[1:]))
    with pytest.raises(TrainingError, match="tabular-classification: .*predicts a number; use --task tabular-reg"):
        imported(FITTED, task="tabular-classification")
    model, known = of_texts("error")
    known[3, SEX] = "other"
    with pytest.raises(TrainingError, match=r"cannot predict its rows.*Found unknown categories \['other'\]"):
        imported(model, known, np.arange(len(known)))
    write_table(tmp_path / "other.csv", NUMBERS_ONLY, TARGET, name="progression")
    with pytest.raises(DataError, match="has no column 'target', which --target names"):
        verify(TableImportConfig(model=tmp_path / "model.skops", data=tmp_path / "other.csv", target="target"))


def test_files_that_are_not_loaded(tmp_path):
    for name in ("model.pkl", "model.JOBLIB"):
        with pytest.raises(TrainingError, match=r"a pickle .* runs code when it is loaded.*run skops.io.dump"):
            load_estimator(tmp_path / name)
    with pytest.raises(TrainingError, match="no such file"):
        load_estimator(tmp_path / "absent.skops")
    for name, content in [("text.skops", b"no archive"), ("empty.skops", b"")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrainingError, match="not readable as a file of skops"):
            load_estimator(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.skops", "w") as archive:
        archive.writestr("schema.json", "[1]")
    with pytest.raises(TrainingError, match="not readable as a file of skops"):
        load_estimator(tmp_path / "other.skops")
    skops_io.dump(make_pipeline(FunctionTransformer(math.hypot), Ridge()), tmp_path / "function.skops")
    with pytest.raises(TrainingError, match="Pipeline > FunctionTransformer: .* not known to be safe: math.hypot;"):
        load_estimator(tmp_path / "function.skops")


def test_positions_of_columns():
    names = ["a", "b", "c", "d"]
    for columns, found in [
        ([2, 0], [2, 0]),
        ([-1], [3]),
        (["c", "a"], [2, 0]),
        (np.array([False, True, False, True]), [1, 3]),
        (slice(1, None), [1, 2, 3]),
        (slice("b", "c"), [1, 2]),
        ([], []),
    ]:
        assert positions(columns, names, 4, "here") == found
    for columns, message in [("a", "as a vector"), ([4], "are not among its 4"), (["e"], "has no column 'e'")]:
        with pytest.raises(TrainingError, match=message):
            positions(columns, names, 4, "here")


def test_labels_are_spelled_as_in_the_table():
    assert labels_of([False, True], ["True", "False"], "m") == {"False": False, "True": True}
    assert labels_of([0.0, 1.0], ["0", "1.0"], "m") == {"0": 0.0, "1.0": 1.0}
    assert labels_of(["a", "b"], ["b"], "m") == {"a": "a", "b": "b"}
    with pytest.raises(TrainingError, match="two classes have the label '1'"):
        labels_of([1, "1"], ["1"], "m")


def test_a_difference_is_refused_and_its_row_named(imported, tmp_path):
    records = imported(FITTED).manifest.records
    expected = FITTED.predict(NUMBERS_ONLY)
    changed = expected.copy()
    changed[7] += 1e-6
    assert check_equal(tmp_path, records, expected * (1 + 1e-12), expected) < 1e-11
    with pytest.raises(ExportError, match=r"differs from scikit-learn by .* in table\.csv:9 "):
        check_equal(tmp_path, records, changed, expected)
    with pytest.raises(ExportError, match="differs from scikit-learn by nan"):
        check_equal(tmp_path, records, np.where(np.arange(ROWS) == 3, np.nan, expected), expected)
