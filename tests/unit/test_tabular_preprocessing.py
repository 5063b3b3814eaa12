"""What is fitted on columns, against scikit-learn and numpy; and that the exported program computes the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler
from torch import nn

from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from marquee.training.core.export import export_program, trace_program
from marquee.training.tasks.tabular.config import (
    TableAugmentConfig,
    TableModelConfig,
    TabularClassificationConfig,
    TabularRegressionConfig,
)
from marquee.training.tasks.tabular.network import Served, build_network, tensors
from marquee.training.tasks.tabular.prepare_config import PrepareConfig
from marquee.training.tasks.tabular.preprocessing import (
    NumberPreparation,
    OneHot,
    Outside,
    TargetTransform,
    fit_number,
    fit_numbers,
    fit_target,
    one_hot_slots,
)
from tests.integration.test_package import pickles_in

EPS = np.finfo(np.float64).eps
ROWS = 200
BATCHES = (1, 2, 7, 64)


def awkward(rows: int = ROWS, missing: float = 0.2, seed: int = 0) -> np.ndarray:
    """Columns that go wrong easily: large offsets, tiny and huge scales, constants, ties, and missing values."""
    draw = np.random.default_rng(seed)
    columns = [
        draw.normal(size=rows),
        1e9 + draw.normal(size=rows),
        -1e6 + 1e-3 * draw.normal(size=rows),
        1e-9 * draw.normal(size=rows),
        1e100 * draw.normal(size=rows),
        np.full(rows, 0.1),
        np.full(rows, 1e9),
        np.zeros(rows),
        draw.integers(0, 4, rows).astype(float),
        draw.standard_cauchy(rows),
    ]
    values = np.column_stack(columns)
    values[draw.random(values.shape) < missing] = np.nan
    return values


def spec_of(numbers: np.ndarray | None = None, categories: int = 0, may_be_missing: bool = True) -> TableSpec:
    """Columns with the ranges of ``numbers`` and three categories each, in turn: a category after each number."""
    numeric = [] if numbers is None else numbers.T
    first = [
        Column(name=f"n{i}", kind="number", low=np.nanmin(v), high=np.nanmax(v), may_be_missing=may_be_missing)
        for i, v in enumerate(numeric)
    ]
    second = [
        Column(name=f"c{i}", kind="category", categories=("a", "b", "c"), may_be_missing=may_be_missing)
        for i in range(categories)
    ]
    turns = [column for pair in zip(second, first, strict=False) for column in pair]
    rest = [*second[len(first) :], *first[len(second) :]]
    ignored = Column(name="other", kind="number", role="ignore")
    return TableSpec(columns=(*turns, ignored, *rest))


def prepared(numbers: np.ndarray, rows: np.ndarray | None = None, **settings) -> np.ndarray:
    """The preparation fitted on ``numbers``, of ``rows``."""
    preparation = fit_numbers(numbers, spec_of(numbers), PrepareConfig(**settings))
    result: np.ndarray = preparation(torch.from_numpy(numbers if rows is None else rows)).numpy()
    return result


def assert_close(ours: np.ndarray, theirs: np.ndarray, size: np.ndarray | float = 1.0) -> None:
    """Equal to 1e-12, in units of the largest number that was subtracted or of the result."""
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    difference = np.abs(ours - theirs) / np.maximum(np.maximum(1, np.abs(theirs)), size)
    assert difference.max() < 1e-12, np.unravel_index(difference.argmax(), difference.shape)


IMPUTERS = {
    "mean": SimpleImputer(strategy="mean"),
    "median": SimpleImputer(strategy="median"),
    "most-frequent": SimpleImputer(strategy="most_frequent"),
    "constant": SimpleImputer(strategy="constant", fill_value=-7.5),
    "min": SimpleImputer(strategy=lambda known: known.min()),
    "max": SimpleImputer(strategy=lambda known: known.max()),
}
SCALERS = {"standard": StandardScaler(), "min-max": MinMaxScaler(), "robust": RobustScaler()}


class TestNumbers:
    @pytest.mark.parametrize("name", IMPUTERS)
    def test_imputers_are_those_of_scikit_learn(self, name):
        train, rows = awkward(), awkward(seed=1)
        ours = prepared(train, rows, impute=name, impute_value=-7.5, scale="none")
        theirs = IMPUTERS[name].fit(train).transform(rows)
        assert_close(ours, theirs)
        assert np.array_equal(ours[~np.isnan(rows)], rows[~np.isnan(rows)])  # known numbers keep their bits

    @pytest.mark.parametrize("name", SCALERS)
    @pytest.mark.parametrize("impute", ["mean", "median"])
    def test_scalers_are_those_of_scikit_learn(self, name, impute):
        train, rows = awkward(), awkward(seed=1)
        theirs = make_pipeline(IMPUTERS[impute], SCALERS[name]).fit(train)
        fitted = fit_numbers(train, spec_of(train), PrepareConfig(impute=impute, scale=name))
        # Numbers far from zero lose digits to the subtraction: 1e-12 of their distance, in units of the scale.
        size = np.abs(fitted.center.numpy()) / fitted.scale.numpy()
        assert_close(fitted(torch.from_numpy(rows)).numpy(), theirs.transform(rows), size)
        assert_close(prepared(train, scale=name, impute=impute), theirs.transform(train), size)

    @pytest.mark.parametrize("scale", [1e-3, 1, 1e9])
    def test_fitted_statistics_have_the_digits_of_scikit_learn(self, scale):
        values = 1e6 + scale * np.random.default_rng(3).normal(size=500)
        fitted = fit_number(values, PrepareConfig())
        theirs = StandardScaler().fit(values[:, None])
        assert fitted.center == pytest.approx(theirs.mean_[0], rel=1e-12)
        assert fitted.scale == pytest.approx(theirs.scale_[0], rel=1e-12)

    def test_numbers_whose_squares_are_infinite_are_scaled(self):
        values = np.random.default_rng(3).normal(size=100)
        small, huge = fit_number(values, PrepareConfig()), fit_number(1e250 * values, PrepareConfig())
        assert huge.scale == pytest.approx(1e250 * small.scale, rel=1e-12)

    def test_the_indicator_is_that_of_scikit_learn(self):
        train, rows = awkward(), awkward(seed=1)
        ours = prepared(train, rows, indicator=True)[:, train.shape[1] :]
        assert np.array_equal(ours, MissingIndicator(features="all").fit(train).transform(rows).astype(float))

    def test_only_columns_that_may_be_missing_have_an_indicator(self):
        numbers = awkward(missing=0)[:, :3]
        columns = spec_of(numbers, may_be_missing=False).columns
        spec = TableSpec(columns=(columns[1], replace(columns[2], may_be_missing=True), columns[3]))
        preparation = fit_numbers(numbers, spec, PrepareConfig(indicator=True))
        numbers[5, 1] = np.nan
        result = preparation(torch.from_numpy(numbers))
        assert preparation.width == 4 == result.shape[1]
        assert result[:, 3].nonzero().tolist() == [[5]]

    @pytest.mark.parametrize(("name", "bounds"), [("iqr", (-1.5, 2.5)), ("quantile", (0.02, 0.98))])
    def test_outliers_are_set_to_bounds(self, name, bounds):
        train, rows = awkward(missing=0), 100 * awkward(missing=0, seed=1)
        ours = prepared(train, rows, clip=name, clip_factor=1.5, clip_quantile=0.02, scale="none")
        if name == "iqr":
            first, third = np.percentile(train, [25, 75], axis=0)
            low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
        else:
            low, high = np.quantile(train, bounds, axis=0)
        assert_close(ours, np.clip(rows, low, high))
        assert (ours != rows).any()

    def test_the_scale_is_that_of_clipped_numbers_with_missing_ones_filled(self):
        values = np.array([1.0, 2, 3, 4, 1000, np.nan])
        fitted = fit_number(values, PrepareConfig(impute="mean", clip="iqr"))
        filled = np.where(np.isnan(values), 202, values)
        first, third = np.percentile(filled, [25, 75])
        clipped = np.clip(filled, first - 1.5 * (third - first), third + 1.5 * (third - first))
        assert (fitted.fill, fitted.center) == (202, pytest.approx(clipped.mean(), rel=1e-15))
        assert fitted.scale == pytest.approx(clipped.std(), rel=1e-15)

    @pytest.mark.parametrize("scale", SCALERS)
    @pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e9 + 0.1, 1e-300, 1e300, 123_456_789.123])
    def test_a_constant_column_becomes_zero_and_another_value_stays_finite(self, scale, value):
        for rows in (2, 3, 10, 997, 5000):
            fitted = fit_number(np.full(rows, value), PrepareConfig(scale=scale))
            assert fitted.scale == 1, rows
            preparation = NumberPreparation([fitted])
            constant, other = preparation(torch.tensor([[value], [value + 1]], dtype=torch.float64)).flatten().tolist()
            assert abs(constant) <= 10 * EPS * abs(value)
            assert math.isfinite(other)

    def test_a_column_without_a_number_is_filled_with_the_constant(self):
        fitted = fit_number(np.full(5, np.nan), PrepareConfig(impute="median", impute_value=3))
        assert (fitted.fill, fitted.center, fitted.scale) == (3, 3, 1)

    def test_ties_of_the_most_frequent_go_to_the_smallest(self):
        assert fit_number(np.array([5.0, 2, 5, 2, 9]), PrepareConfig(impute="most-frequent")).fill == 2

    def test_buffers_are_float64(self):
        preparation = fit_numbers(awkward(), spec_of(awkward()), PrepareConfig(indicator=True, clip="iqr"))
        dtypes = {name: buffer.dtype for name, buffer in preparation.named_buffers()}
        assert dtypes.pop("indicated") == torch.int64
        assert set(dtypes) == {"fill", "low", "high", "center", "scale"}
        assert set(dtypes.values()) == {torch.float64}

    def test_a_rows_result_does_not_depend_on_the_rows_beside_it(self):
        train = awkward()
        preparation = fit_numbers(train, spec_of(train), PrepareConfig(indicator=True, clip="quantile"))
        together = preparation(torch.from_numpy(train))
        alone = torch.cat([preparation(torch.from_numpy(train[i : i + 1])) for i in range(ROWS)])
        assert torch.equal(together, alone)


class TestCategories:
    def test_one_hot_is_that_of_scikit_learn(self):
        draw = np.random.default_rng(0)
        spec = spec_of(categories=2)
        codes = draw.choice([MISSING, UNSEEN, 2, 3, 4], (ROWS, 2))
        texts = np.array([None, "never seen", "a", "b", "c"], dtype=object)[codes]
        encoder = OneHotEncoder(categories=[[None, "a", "b", "c"]] * 2, handle_unknown="ignore", sparse_output=False)
        encoder.fit(np.array([[None, None], ["a", "a"], ["b", "b"], ["c", "c"]], dtype=object))
        ours = OneHot(one_hot_slots(spec))(torch.from_numpy(codes)).numpy()
        assert ours.dtype == np.float64
        assert np.array_equal(ours, encoder.transform(texts))

    def test_a_missing_category_has_a_slot_only_where_there_may_be_one(self):
        assert one_hot_slots(spec_of(categories=1, may_be_missing=False)) == [(0, 2), (0, 3), (0, 4)]
        assert one_hot_slots(spec_of(categories=1)) == [(0, MISSING), (0, 2), (0, 3), (0, 4)]


class TestOutside:
    def test_flags_are_in_the_order_of_the_table(self):
        spec = spec_of(np.array([[0.0, -1.0], [10.0, 1.0]]), categories=2)
        assert [column.name for column in spec.features] == ["c0", "n0", "c1", "n1"]
        numbers = [[0, 1], [10, -1], [math.nextafter(10, 11), 0], [11, 0], [-1e-300, -5], [math.nan, math.nan]]
        rows = torch.tensor(numbers, dtype=torch.float64)
        codes = torch.tensor([[2, 4], [MISSING, UNSEEN], [2, 2], [UNSEEN, UNSEEN], [2, 2], [MISSING, MISSING]])
        flags = Outside(spec)(rows, codes)
        assert flags.dtype == torch.uint8
        assert flags.tolist() == [
            [0, 0, 0, 0],
            [0, 0, 1, 0],
            [0, 1, 0, 0],
            [1, 1, 1, 0],
            [0, 1, 0, 1],
            [0, 0, 0, 0],
        ]

    def test_booleans_and_columns_without_a_range_are_never_outside(self):
        spec = TableSpec(columns=(Column(name="b", kind="boolean"), Column(name="n", kind="number")))
        assert Outside(spec)(torch.tensor([[1.0, 1e300], [0, -1e300]], dtype=torch.float64), None).sum() == 0

    def test_categories_alone(self):
        assert Outside(spec_of(categories=2))(None, torch.tensor([[UNSEEN, 2], [3, 0]])).tolist() == [[1, 0], [0, 0]]


class TestTarget:
    @pytest.mark.parametrize("name", ["none", "standard", "auto", "min-max", "log"])
    def test_the_inverse_gives_the_target_back(self, name):
        targets = np.random.default_rng(0).gamma(2, 100, 300)
        transform = fit_target(targets, name, clip=True)
        scaled = transform(torch.from_numpy(targets))
        assert scaled.dtype == torch.float64
        assert_close(transform.inverse(scaled).numpy(), targets)

    @pytest.mark.parametrize(
        ("name", "scaler", "through"),
        [
            ("standard", StandardScaler(), lambda y: y),
            ("min-max", MinMaxScaler(), lambda y: y),
            ("log", StandardScaler(), np.log1p),
        ],
    )
    def test_the_transform_is_that_of_scikit_learn(self, name, scaler, through):
        targets = np.random.default_rng(0).gamma(2, 100, 300)
        ours = fit_target(targets, name, clip=False)(torch.from_numpy(targets)).numpy()
        assert_close(ours, scaler.fit_transform(through(targets)[:, None])[:, 0])

    def test_the_inverse_is_that_of_scikit_learn(self):
        targets = np.random.default_rng(0).normal(1e4, 50, 300)
        regressor = TransformedTargetRegressor(
            DummyRegressor(strategy="constant", constant=[1.25]), transformer=StandardScaler()
        )
        regressor.fit(targets[:, None], targets)
        ours = fit_target(targets, "standard", clip=False).inverse(torch.tensor([1.25]))
        assert ours.item() == pytest.approx(regressor.predict([[0.0]])[0], rel=1e-14)

    def test_answers_stay_within_the_range_seen(self):
        targets = np.array([2.0, 3, 7])
        outputs = torch.tensor([-100.0, 0, 100])
        assert fit_target(targets, "standard", clip=True).inverse(outputs).tolist() == [2, 4, 7]
        free = fit_target(targets, "standard", clip=False).inverse(outputs).tolist()
        assert free[0] < 2 < 7 < free[2]

    def test_float32_outputs_are_widened_before_they_are_scaled(self):
        transform = TargetTransform(center=1e9, scale=1.0)
        assert transform.inverse(torch.tensor([0.5])).tolist() == [1e9 + 0.5]

    @pytest.mark.parametrize("least", [-1.0, -3.0])
    def test_a_target_without_a_logarithm_is_refused(self, least):
        with pytest.raises(ValueError, match=r"prepare.target: log needs targets above -1, got"):
            fit_target(np.array([least, 2.0]), "log", clip=True)

    @pytest.mark.parametrize("clip", [True, False])
    def test_weights_leave_it_open_whether_answers_are_clipped(self, clip):
        targets, outputs = np.array([2.0, 3, 7]), torch.linspace(-3, 3, 7)
        rebuilt = TargetTransform(log=True, low=2, high=7) if clip else TargetTransform(log=True)
        rebuilt.load_state_dict(fit_target(targets, "log", clip=not clip).state_dict())
        assert torch.equal(rebuilt.inverse(outputs), fit_target(targets, "log", clip).inverse(outputs))


class Prepared(nn.Module):
    """The element-wise part of a served network: everything but the body."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        network = self.served.network
        arrays = network.by_kind((first,) if second is None else (first, second))
        return network.features(*arrays), self.served.outside(*arrays)


def rows_of(spec: TableSpec, count: int, missing: bool, seed: int) -> dict[str, np.ndarray]:
    """Raw rows within and outside of what was seen."""
    draw, arrays = np.random.default_rng(seed), {}
    if spec.numeric:
        low = np.array([column.low for column in spec.numeric])
        high = np.array([column.high for column in spec.numeric])
        arrays[NUMBERS] = draw.uniform(low - 0.1 * (high - low), high, (count, len(low)))
        if missing:
            arrays[NUMBERS][draw.random(arrays[NUMBERS].shape) < 0.3] = np.nan
    if spec.categorical:
        codes = [*([MISSING] if missing else []), UNSEEN, *range(FIRST_CATEGORY, FIRST_CATEGORY + 3)]
        arrays[CODES] = draw.choice(codes, (count, len(spec.categorical)))
    return arrays


def served(spec: TableSpec, labels: int = 0, missing: bool = True, prepare=None, augment=None, **model) -> Served:
    """A network as it is exported, with weights that are not zero."""
    kind = TabularClassificationConfig if labels else TabularRegressionConfig
    config = kind(
        model=TableModelConfig(**{"width": 16, "depth": 2, "members": 4, **model}),
        prepare=PrepareConfig(**(prepare or {})),
        augment=TableAugmentConfig(**(augment or {})),
    )
    target = fit_target(np.array([10.0, 20, 40, 80]), "standard", clip=True)
    network = build_network(config, spec, rows_of(spec, 50, missing, 1), target, labels)
    if model["name"] == "linear":
        nn.init.normal_(network.body.weight, std=0.1)
    return Served(network, spec).eval()


BOTH = spec_of(awkward()[:, [0, 1, 2, 8]], categories=3)
NUMBERS_ONLY = spec_of(awkward()[:, [0, 1, 2, 8]])
CATEGORIES_ONLY = spec_of(categories=3)
NEVER_MISSING = spec_of(awkward()[:, [0, 1, 2, 8]], categories=3, may_be_missing=False)
NETWORKS = {
    "linear": (BOTH, {"name": "linear"}, {"indicator": True, "clip": "iqr"}),
    "linear-numbers": (NUMBERS_ONLY, {"name": "linear"}, {"scale": "min-max"}),
    "linear-categories": (CATEGORIES_ONLY, {"name": "linear"}, {}),
    "mlp": (BOTH, {"name": "mlp"}, {"scale": "robust"}),
    "mlp-never-missing": (NEVER_MISSING, {"name": "mlp"}, {"indicator": True}),
    "mlp-embedding": (BOTH, {"name": "mlp"}, {"categories": "embedding", "indicator": True}),
    "mlp-embedding-categories": (CATEGORIES_ONLY, {"name": "mlp"}, {"categories": "embedding"}),
    "mlp-periodic": (BOTH, {"name": "mlp", "embeddings": "periodic"}, {"indicator": True}),
    "mlp-periodic-numbers": (NUMBERS_ONLY, {"name": "mlp", "embeddings": "periodic"}, {}),
    "mlp-periodic-embedding": (BOTH, {"name": "mlp", "embeddings": "periodic"}, {"categories": "embedding"}),
    "tabm": (BOTH, {"name": "tabm"}, {"clip": "quantile"}),
    "tabm-numbers": (NUMBERS_ONLY, {"name": "tabm", "embeddings": "periodic"}, {}),
    "tabm-categories": (CATEGORIES_ONLY, {"name": "tabm"}, {}),
}


class TestExported:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_element_wise_part_has_the_bits_of_the_eager_network_whatever_the_batch(self, name):
        spec, model, prepare = NETWORKS[name]
        missing = spec is not NEVER_MISSING
        module = Prepared(served(spec, missing=missing, prepare=prepare, **model)).eval()
        program = trace_program(module, spec).module()
        for count in BATCHES:
            rows = tensors(rows_of(spec, count, missing, 10 + count))
            with torch.inference_mode():
                for ours, eager in zip(program(*rows), module(*rows), strict=True):
                    assert ours.dtype == eager.dtype
                    assert torch.equal(ours, eager)
                    assert torch.isfinite(ours).all()

    @pytest.mark.parametrize("name", ["linear", "mlp-embedding", "mlp-periodic", "tabm"])
    @pytest.mark.parametrize("labels", [0, 3])
    def test_the_whole_program_answers_as_the_network(self, name, labels, tmp_path):
        spec, model, prepare = NETWORKS[name]
        module = served(spec, labels, prepare=prepare, **model)
        export_program(module, spec, tmp_path / "model.pt2")
        program = torch.export.load(tmp_path / "model.pt2").module()
        tolerance = 1e-12 if model["name"] == "linear" else 1e-5
        for count in BATCHES:
            rows = tensors(rows_of(spec, count, True, 10 + count))
            with torch.inference_mode():
                (answers, outside), (expected, expected_outside) = program(*rows), module(*rows)
            assert answers.shape == ((count, labels) if labels else (count,))
            torch.testing.assert_close(answers, expected, rtol=tolerance, atol=tolerance)
            assert torch.equal(outside, expected_outside)
            assert outside.shape == (count, len(spec.features))
        assert labels or answers.dtype == torch.float64

    def test_the_file_holds_no_pickle(self, tmp_path):
        export_program(served(BOTH, name="mlp", prepare={"indicator": True}), BOTH, tmp_path / "model.pt2")
        data = (tmp_path / "model.pt2").read_bytes()
        assert data[:4] == b"PK\x03\x04"
        assert pickles_in("model.pt2", data) == []

    def test_jitter_is_for_training_only_and_leaves_indicators_alone(self):
        module = served(NUMBERS_ONLY, name="linear", prepare={"indicator": True}, augment={"jitter": 0.5})
        rows = tensors(rows_of(NUMBERS_ONLY, 20, True, 3))
        network = module.network
        with torch.no_grad():
            quiet = network.eval().features(*rows, None)
            noisy = network.train().features(*rows, None)
        assert torch.equal(network.eval().features(*rows, None), quiet)
        assert (noisy[:, :4] != quiet[:, :4]).all()
        assert torch.equal(noisy[:, 4:], quiet[:, 4:])
        assert (noisy - quiet)[:, :4].std() == pytest.approx(0.5, rel=0.3)

    def test_a_category_that_training_never_saw_is_like_none_of_the_others(self):
        """Its one-hot columns are zero; its embedding is zero, not noise that nothing has trained."""
        codes = torch.tensor([[UNSEEN, UNSEEN, UNSEEN]])
        for name, prepare in (("linear", {}), ("mlp", {}), ("mlp", {"categories": "embedding"})):
            module = served(CATEGORIES_ONLY, name=name, prepare=prepare)
            assert module.network.features(None, codes).abs().sum() == 0
