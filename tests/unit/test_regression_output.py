"""The output of a regression: from an engine's array to an answer, and the comparison of answers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.output import OutputSpec
from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.handlers.core.spec import VariantSpec
from marquee.handlers.outputs.classification import LOGITS, ClassificationCalibration, ClassificationSpec
from marquee.handlers.outputs.outside import OUTSIDE, names_outside, read_outside
from marquee.handlers.outputs.regression import (
    UNFAMILIAR,
    VALUE,
    Regression,
    RegressionCalibration,
    RegressionSpec,
    regression_of,
)

COLUMNS = ("age", "sex", "bmi")
SPEC = RegressionSpec(
    target="price",
    unit="EUR",
    low=100.0,
    high=300.0,
    columns=COLUMNS,
    calibration=RegressionCalibration(level=0.9, half_width=12.5),
)
VARIANT = VariantSpec(name="fp64", engine="exported", precision="fp64", files={"m": "0" * 64}, outputs=(VALUE, OUTSIDE))


def output(spec: RegressionSpec = SPEC, variant: VariantSpec = VARIANT) -> Regression:
    return spec.create(variant, None)


def arrays(*values: float, outside=None, dtype=np.float64) -> dict[str, np.ndarray]:
    """What an engine gives."""
    flags = np.zeros((len(values), len(COLUMNS)), np.uint8) if outside is None else np.array(outside, np.uint8)
    return {VALUE: np.array(values, dtype), OUTSIDE: flags}


class TestSpec:
    def test_json_round_trip(self):
        assert from_dict(OutputSpec, json.loads(json.dumps(to_dict(SPEC)))) == SPEC

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"low": 300.0}, r"low: expected less than high \(300.0\), got 300.0"),
            ({"low": "a"}, "low: expected float, got str 'a'"),
            ({"low": float("nan")}, "low: expected a finite number, got nan"),
            ({"high": float("inf")}, "high: expected a finite number, got inf"),
            ({"calibration": {"kind": "regression", "level": 1.0}}, "calibration.level: expected a number between 0"),
            (
                {"calibration": {"kind": "regression", "half_width": -1.0}},
                "calibration.half_width: expected at least 0",
            ),
        ],
    )
    def test_errors_name_the_field(self, change, message):
        with pytest.raises(SchemaError, match=message):
            from_dict(OutputSpec, {**to_dict(SPEC), **change})

    @pytest.mark.parametrize("names", [(VALUE,), (VALUE, OUTSIDE)])
    def test_names_of_arrays(self, names):
        SPEC.check_names(names)

    @pytest.mark.parametrize("names", [(OUTSIDE, VALUE), (OUTSIDE,), (VALUE, LOGITS), (LOGITS,)])
    def test_other_names_are_refused(self, names):
        with pytest.raises(ValueError, match=f"expected value, with or without outside, got {', '.join(names)}"):
            SPEC.check_names(names)

    def test_description(self):
        assert SPEC.describe() == {"target": "price", "unit": "EUR", "low": 100, "high": 300}
        assert "unit" not in replace(SPEC, unit="").describe()

    def test_a_variants_own_calibration_comes_first(self):
        own = replace(VARIANT, calibration=RegressionCalibration(level=0.5, half_width=1.0))
        assert output(variant=own).predictions(output().read(arrays(150.0)))[0].interval == (149, 151)
        with pytest.raises(BundleError, match="variant 'fp64' has a calibration of kind 'classification'"):
            output(variant=replace(VARIANT, calibration=ClassificationCalibration()))

    def test_the_output_of_another_model_is_no_regression(self):
        class Model:
            output = ClassificationSpec(labels=("a", "b"))

        with pytest.raises(TypeError, match="gives a number, got one of kind 'classification'"):
            regression_of(Model())


class TestRead:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(2,), (2, 1)])
    def test_values_are_float64_of_one_dimension(self, dtype, shape):
        read = output().read({VALUE: np.array([0.1, 0.2], dtype).reshape(shape)})
        assert read[VALUE].dtype == np.float64
        assert read[VALUE].tolist() == np.array([0.1, 0.2], dtype).astype(np.float64).tolist()
        assert OUTSIDE not in read

    @pytest.mark.parametrize("flags", [np.uint8, np.int64, np.float32, bool])
    def test_flags_are_bools(self, flags):
        read = output().read({VALUE: np.array([1.0]), OUTSIDE: np.array([[0, 1, 0]], flags)})
        assert read[OUTSIDE].dtype == bool
        assert read[OUTSIDE].tolist() == [[False, True, False]]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite_are_refused(self, bad):
        with pytest.raises(BundleError, match="the engine gave values that are not finite"):
            output().read(arrays(1.0, bad))

    @pytest.mark.parametrize("shape", [(2, 2), (1, 2, 1), ()])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(BundleError, match="expected one number an item"):
            output().read({VALUE: np.zeros(shape)})

    @pytest.mark.parametrize("shape", [(1, 2), (1, 4), (3,)])
    def test_flags_of_other_columns_are_refused(self, shape):
        with pytest.raises(BundleError, match="the engine gave outside of shape .* for 3 columns"):
            output().read({VALUE: np.zeros(1), OUTSIDE: np.zeros(shape, np.uint8)})
        with pytest.raises(BundleError, match="for 3 columns"):
            read_outside(np.zeros(shape), COLUMNS)


class TestPredictions:
    def test_interval_and_unfamiliar_names(self):
        answers = output().predictions(output().read(arrays(120.0, 290.0, outside=[[0, 0, 0], [1, 0, 1]])))
        assert [answer.as_json() for answer in answers] == [
            {"value": 120, "interval": {"low": 107.5, "high": 132.5, "level": 0.9}, "unfamiliar": []},
            {"value": 290, "interval": {"low": 277.5, "high": 302.5, "level": 0.9}, "unfamiliar": ["age", "bmi"]},
        ]
        assert [len(list(answer.observations())) for answer in answers] == [0, 1]
        assert answers[1].observations()[0].family is UNFAMILIAR
        assert [series.name for series in output().zeros()] == ["marquee_unfamiliar_total"]

    def test_json_holds_every_bit(self):
        values = np.random.default_rng(0).normal(size=50).tolist()
        answers = output().predictions(output().read(arrays(*values)))
        assert [json.loads(json.dumps(answer.as_json()))["value"] for answer in answers] == values

    def test_without_a_width_there_is_no_interval(self):
        bare = output(replace(SPEC, calibration=RegressionCalibration()))
        assert bare.predictions(bare.read({VALUE: np.array([1.0])}))[0].as_json() == {"value": 1, "unfamiliar": []}

    def test_a_width_of_zero_is_one(self):
        exact = output(replace(SPEC, calibration=RegressionCalibration(half_width=0.0)))
        assert exact.predictions(exact.read(arrays(7.0)))[0].interval == (7, 7)

    def test_names_of_many_rows(self):
        flags = np.random.default_rng(0).random((200, 3)) < 0.1
        expected = [tuple(name for name, flag in zip(COLUMNS, row, strict=True) if flag) for row in flags]
        assert names_outside(flags, COLUMNS) == expected


GOLDEN = {"file": "golden/000.json", "target": 121.0, **output().predictions(arrays(120.0))[0].golden()}


class TestComparison:
    def test_differences_are_shares_of_the_targets_range(self):
        first, second = (output().read(arrays(*values)) for values in ((100.0, 200.0, 200.0), (100.0, 202.0, 196.0)))
        assert output().differences(first, second).tolist() == pytest.approx([0, 0.01, 0.02])
        assert output().agreement(first, second).tolist() == [True, True, False]

    @pytest.mark.parametrize(("apart", "equal"), [(0.0, True), (0.0199, True), (-0.0199, True), (0.0201, False)])
    def test_the_tolerance_is_a_share_of_the_range(self, apart, equal):
        answer = output().predictions(arrays(120.0 + apart))[0]
        for form in (answer.golden(), json.loads(json.dumps(answer.as_json()))):
            assert (output().difference(GOLDEN, form, 1e-4) is None) == equal

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"value": 121.0}, r"expected value 120.0, got 121.0 \(tolerance 0.02\)"),
            ({"value": None}, "expected value 120.0, got None"),
            ({"value": "120.0"}, "expected value 120.0, got 120.0"),
            ({"value": float("nan")}, "expected value 120.0, got nan"),
            ({"value": [120.0]}, "expected value 120.0, got"),
            ({"interval": {"low": 107.5, "high": 133.0, "level": 0.9}}, "expected interval.high 132.5, got 133.0"),
            ({"interval": {"low": 107.5}}, "expected interval.high 132.5, got None"),
            ({"interval": None}, "expected interval.low 107.5, got None"),
            ({"interval": "wide"}, "expected interval.low 107.5, got None"),
            ({"unfamiliar": ["age"]}, r"expected unfamiliar \[\], got \['age'\]"),
            ({"unfamiliar": None}, r"expected unfamiliar \[\], got None"),
        ],
    )
    def test_what_differs_is_said(self, change, message):
        line = output().difference(GOLDEN, {**GOLDEN, **change}, 1e-4)
        assert line is not None
        assert re.match(message, line), line

    def test_an_error_body_differs(self):
        assert (
            output().difference(GOLDEN, {"code": "bad_value"}, 1e-4)
            == "expected value 120.0, got None (tolerance 0.02)"
        )

    def test_an_interval_where_none_belongs_differs(self):
        bare = {"value": 120.0, "unfamiliar": []}
        assert output().difference(bare, bare, 1e-4) is None
        assert "expected interval.low None, got 107.5" in str(output().difference(bare, GOLDEN, 1e-4))

    def test_stored_answers_are_checked(self):
        output().check_golden(GOLDEN)
        output().check_golden({"value": 1, "unfamiliar": ["age"]})
        with pytest.raises(KeyError):
            output().check_golden({"unfamiliar": []})

    @pytest.mark.parametrize(
        "change",
        [
            {"value": float("inf")},
            {"value": None},
            {"value": "one"},
            {"interval": 5},
            {"interval": {"low": 1.0}},
            {"interval": {"low": 1.0, "high": float("nan")}},
            {"unfamiliar": 3},
        ],
    )
    def test_stored_answers_that_are_none_are_refused(self, change):
        with pytest.raises((ValueError, TypeError, KeyError)):
            output().check_golden({**GOLDEN, **change})


class TestClassificationOfRows:
    """A classification that says which features of a row are unfamiliar, too."""

    SPEC = ClassificationSpec(labels=("no", "yes"), columns=COLUMNS)
    VARIANT = replace(VARIANT, outputs=(LOGITS, OUTSIDE))

    def test_answers_name_unfamiliar_features(self):
        classes = self.SPEC.create(self.VARIANT, None)
        read = classes.read({LOGITS: np.array([[0.0, 1], [2, 0]]), OUTSIDE: np.array([[0, 0, 0], [0, 1, 0]], np.uint8)})
        answers = classes.predictions(read)
        assert [answer.as_json()["unfamiliar"] for answer in answers] == [[], ["sex"]]
        assert [answer.label for answer in answers] == ["yes", "no"]
        assert not classes.measures_distance

    def test_golden_answers_compare_them(self):
        classes = self.SPEC.create(self.VARIANT, None)
        read = classes.read({LOGITS: np.array([[0.0, 1]]), OUTSIDE: np.array([[0, 1, 0]], np.uint8)})
        answer = classes.predictions(read)[0]
        assert classes.difference(answer.golden(), answer.as_json(), 1e-6) is None
        line = classes.difference(answer.golden(), {**answer.as_json(), "unfamiliar": []}, 1e-6)
        assert line == "expected unfamiliar ['sex'], got []"

    def test_names_of_arrays(self):
        self.SPEC.check_names((LOGITS, OUTSIDE))
        for names in ((OUTSIDE, LOGITS), (OUTSIDE,), (LOGITS, VALUE)):
            with pytest.raises(ValueError, match="expected logits"):
                self.SPEC.check_names(names)
