"""Temperature, thresholds and feature distance."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import gamma

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.spec import VariantSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.task import Fitted
from marquee.training.tasks.classification.calibration import (
    abstain_threshold,
    distance_threshold,
    fit_temperature,
    single_label_likelihood,
)
from marquee.training.tasks.image_classification.config import ClassificationExportConfig, ImageRunConfig
from marquee.training.tasks.image_classification.ood import tables_of
from marquee.training.tasks.image_classification.task import ImageClassification

RNG = np.random.default_rng(0)
TRUE_LOGITS = RNG.normal(0, 2, (4000, 3))
PROBABILITIES = np.exp(TRUE_LOGITS) / np.exp(TRUE_LOGITS).sum(1, keepdims=True)
TARGETS = np.array([RNG.choice(3, p=row) for row in PROBABILITIES])


def calibrate(outputs: Arrays, export: ClassificationExportConfig) -> Fitted:
    variant = VariantSpec(name="fp32", engine="exported", precision="fp32", files={"model.pt2": "0" * 64})
    output = ClassificationSpec(labels=("a", "b", "c")).create(variant, Path())
    return ImageClassification().calibrate(ImageRunConfig(export=export), output, outputs, TARGETS)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(factor):
    """Targets drawn from the softmax of the logits: whatever they are multiplied by is their best temperature."""
    assert fit_temperature(TRUE_LOGITS * factor, TARGETS, single_label_likelihood) == pytest.approx(factor, rel=0.05)


def test_no_mistakes_have_a_temperature_too():
    logits = np.eye(3)[[0, 1, 2]] * 5
    # Three right ones of three count as 4/5 sure: 0.8 to 0.1 for each of the others.
    assert fit_temperature(logits, np.array([0, 1, 2]), single_label_likelihood) == pytest.approx(
        5 / np.log(8), rel=1e-3
    )


def test_calibration_improves_what_it_is_fitted_to():
    distances = RNG.normal(1, 0.1, len(TARGETS))
    found = calibrate(
        {"logits": TRUE_LOGITS * 3, "distance": distances}, ClassificationExportConfig(max_error=0.1, unfamiliar=0.05)
    )
    assert found.facts["ece_after"] < found.facts["ece_before"] / 3
    assert found.facts["nll_after"] < found.facts["nll_before"]
    assert found.facts["temperature"] == found.calibration.temperature == pytest.approx(3, rel=0.05)
    confidence, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == TARGETS
    accepted = confidence >= found.calibration.min_probability
    assert 0.05 < 1 - right[accepted].mean() < 0.11
    assert (distances > found.calibration.max_distance).mean() == pytest.approx(0.05, abs=0.001)


def test_everything_can_be_switched_off():
    output = calibrate({"logits": TRUE_LOGITS}, ClassificationExportConfig(calibrate=False)).calibration
    assert (output.temperature, output.min_probability, output.max_distance) == (1.0, 0.0, None)


class TestAbstainThreshold:
    CONFIDENCE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])

    @pytest.mark.parametrize(
        ("right", "wanted", "threshold"),
        [
            ([1, 1, 1, 1, 1], 0.1, 0.0),  # nothing to hold back
            ([1, 1, 1, 0, 0], 0.0, 0.65),  # between the last right one and the first wrong one
            ([1, 1, 1, 0, 0], 0.25, 0.55),  # one wrong of four
            ([1, 0, 1, 1, 1], 0.2, 0.0),  # one wrong of five in the end, though one of two on the way
            ([1, 0, 1, 1, 0], 0.25, 0.55),
        ],
    )
    def test_by_hand(self, right, wanted, threshold):
        assert abstain_threshold(self.CONFIDENCE, np.array(right, bool), wanted) == pytest.approx(threshold)

    def test_even_the_surest_is_wrong(self):
        threshold = abstain_threshold(self.CONFIDENCE, np.array([0, 1, 1, 1, 1], bool), 0.1)
        assert threshold > 0.9
        assert abstain_threshold(np.array([1.0, 0.5]), np.array([False, True]), 0.1) == 1.0

    def test_equal_confidences_stand_or_fall_together(self):
        confidence = np.array([0.9, 0.8, 0.8, 0.8])
        assert abstain_threshold(confidence, np.array([1, 1, 1, 0], bool), 0.0) == pytest.approx(0.85)


@pytest.mark.parametrize("images", [39, 199])
def test_further_images_exceed_the_distance_threshold_as_often_as_stated(images):
    rng = np.random.default_rng(0)
    thresholds = [distance_threshold(rng.gamma(3, size=images), 0.025) for _ in range(2000)]
    assert gamma.sf(thresholds, 3).mean() == pytest.approx(0.025, rel=0.05)


def test_too_few_images_for_the_share_are_told_of(caplog):
    assert distance_threshold(np.arange(1.0, 100), 0.05) == pytest.approx(95)
    assert not caplog.records
    assert distance_threshold(np.arange(50.0), 0.005) == 49
    assert "50 validation images are too few to let only 0.50% of images" in caplog.text
    assert "expect 2.0%" in caplog.text


def test_feature_distance_by_hand():
    """Two classes at (0, 0) and (10, 0); the first feature spreads by 2, the second by 1."""
    distance = tables_of(np.array([[0.0, 0.0], [10.0, 0.0]]), np.diag([4.0, 1.0]))
    features = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [12.0, 1.0], [5.0, 0.0]])
    # Squared distance to the nearest mean in units of the spread, over two features.
    expected = np.sqrt(np.array([0, 1, 1, 2, 25 / 4]) / 2)
    assert distance(features) == pytest.approx(expected, abs=1e-6)
    many = np.tile(features, (300_000, 1))  # more than is computed at once
    assert distance(many).reshape(-1, 5) == pytest.approx(np.tile(distance(features), (300_000, 1)), abs=1e-6)
    assert distance(features[:0]).shape == (0,)
