"""What a regression's answers are measured by, against scikit-learn; and the width of its intervals."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from marquee.training.core.statistics import share_interval
from marquee.training.tasks.tabular.conformal import half_width
from marquee.training.tasks.tabular.metrics import MEANINGS, coverage, regression_metrics


class TestMetrics:
    @pytest.mark.parametrize("offset", [0.0, 1e9])
    def test_they_are_those_of_scikit_learn(self, offset):
        draw = np.random.default_rng(0)
        targets = offset + draw.normal(10, 5, 333)
        values = targets + draw.normal(1, 2, 333)
        ours = regression_metrics(values, targets)
        assert ours["rows"] == 333
        assert ours["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, values), rel=1e-12)
        assert ours["mae"] == pytest.approx(sk.mean_absolute_error(targets, values), rel=1e-12)
        assert ours["median_error"] == pytest.approx(sk.median_absolute_error(targets, values), rel=1e-12)
        assert ours["r2"] == pytest.approx(sk.r2_score(targets, values), abs=1e-12)
        assert ours["bias"] == pytest.approx(np.mean(values - targets), rel=1e-12)

    def test_the_mean_explains_nothing_and_the_truth_everything(self):
        targets = np.array([1.0, 2, 3, 6])
        assert regression_metrics(np.full(4, 3.0), targets)["r2"] == 0
        assert regression_metrics(targets, targets)["r2"] == 1
        assert regression_metrics(np.full(4, 100.0), targets)["r2"] < 0

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e9 + 0.1])
    @pytest.mark.parametrize("rows", [1, 3, 7, 1000])
    def test_a_constant_truth_has_no_variance_to_explain(self, value, rows):
        measured = regression_metrics(np.full(rows, value + 1), np.full(rows, value))
        assert measured["r2"] is None
        assert measured["bias"] == pytest.approx(1)

    def test_every_metric_has_a_meaning(self):
        named = {*regression_metrics(np.ones(2), np.zeros(2)), *coverage(np.ones(2), np.zeros(2), 1.0, "ab")}
        assert named - {"coverage_interval"} == set(MEANINGS)

    def test_coverage_counts_the_ends(self):
        values, targets = np.array([0.0, 0, 0, 0]), np.array([-2.0, 2, 2.5, 0])
        measured = coverage(values, targets, 2.0, ["a", "b", "c", "d"])
        assert (measured["coverage"], measured["interval_width"]) == (0.75, 4)
        assert measured["coverage_interval"] == share_interval(np.array([True, True, False, True]))

    def test_rows_of_one_group_say_less(self):
        draw = np.random.default_rng(0)
        errors = np.repeat(draw.normal(size=20), 10)
        alone = coverage(errors, np.zeros(200), 1.0, [str(i) for i in range(200)])
        grouped = coverage(errors, np.zeros(200), 1.0, [str(i // 10) for i in range(200)])
        assert alone["coverage"] == grouped["coverage"]
        widths = [high - low for low, high in (alone["coverage_interval"], grouped["coverage_interval"])]
        assert widths[1] > 1.5 * widths[0]


class TestConformal:
    @pytest.mark.parametrize(
        ("count", "level", "rank"),
        [
            (9, 0.9, 9),  # ceil(10 x 0.9), exactly
            (10, 0.9, 10),
            (19, 0.9, 18),
            (20, 0.9, 19),
            (99, 0.9, 90),
            (99, 0.95, 95),
            (199, 0.95, 190),
            (999, 0.999, 999),
            (1, 0.5, 1),
            (3, 0.7, 3),
            (29, 0.7, 21),
        ],
    )
    def test_the_rank_is_that_of_n_plus_one(self, count, level, rank):
        errors = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
        assert half_width(errors, level) == rank

    @pytest.mark.parametrize(("count", "level"), [(0, 0.5), (1, 0.51), (8, 0.9), (18, 0.95), (98, 0.99), (998, 0.999)])
    def test_too_few_errors_give_no_width(self, count, level):
        assert half_width(np.arange(float(count)), level) is None
        assert half_width(np.arange(float(count + 1)), level) is not None

    def test_no_level_below_one_is_wrong_by_rounding(self):
        for count in range(1, 400):
            for percent in range(50, 100):
                needed = -(-(count + 1) * percent // 100)  # exact, in integers
                found = half_width(np.arange(1.0, count + 1), percent / 100)
                assert found == (needed if needed <= count else None), (count, percent)

    @pytest.mark.parametrize("count", [9, 25, 60])
    @pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
    def test_exchangeable_rows_are_covered_as_often_as_the_level_says(self, count, level):
        """Over many splits the mean coverage is at least the level, and at most 1 / (N + 1) more."""
        draw = np.random.default_rng(7)
        splits, covered = 20_000, 0
        errors = np.abs(draw.standard_t(3, (splits, count + 1)))  # heavy tails: the guarantee asks for no shape
        for row in errors:
            half = half_width(row[:-1], level)
            assert half is not None
            covered += row[-1] <= half
        slack = 3 * math.sqrt(0.25 / splits)
        assert level - slack <= covered / splits <= level + 1 / (count + 1) + slack
