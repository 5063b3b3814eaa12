"""Temperature and thresholds."""

import math

import numpy as np
import pytest

from handlers.predictor import energy
from training.calibration import abstain_threshold, calibrate, energy_threshold, fit_temperature
from training.config import ExportConfig

RNG = np.random.default_rng(0)
TRUE_LOGITS = RNG.normal(0, 2, (4000, 3))
PROBABILITIES = np.exp(TRUE_LOGITS) / np.exp(TRUE_LOGITS).sum(1, keepdims=True)
TARGETS = np.array([RNG.choice(3, p=row) for row in PROBABILITIES])


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(factor):
    """Targets drawn from the softmax of the logits: whatever they are multiplied by is their best temperature."""
    assert fit_temperature(TRUE_LOGITS * factor, TARGETS) == pytest.approx(factor, rel=0.05)


def test_no_mistakes_have_a_temperature_too():
    logits = np.eye(3)[[0, 1, 2]] * 5
    assert 0.05 <= fit_temperature(logits, np.array([0, 1, 2])) < 0.2


def test_calibration_improves_what_it_is_fitted_to():
    found = calibrate(TRUE_LOGITS * 3, TARGETS, ExportConfig(max_error=0.1, unfamiliar=0.05))
    assert found.facts["ece_after"] < found.facts["ece_before"] / 3
    assert found.facts["nll_after"] < found.facts["nll_before"]
    assert found.facts["temperature"] == found.output.temperature == pytest.approx(3, rel=0.05)
    confidence, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == TARGETS
    accepted = confidence >= found.output.min_probability
    assert 0.05 < 1 - right[accepted].mean() < 0.11
    assert (energy(TRUE_LOGITS * 3) > found.output.max_energy).mean() == pytest.approx(0.05, abs=0.001)


def test_everything_can_be_switched_off():
    output = calibrate(TRUE_LOGITS, TARGETS, ExportConfig(calibrate=False, unfamiliar=0)).output
    assert (output.temperature, output.min_probability, output.max_energy) == (1.0, 0.0, None)


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


def test_energy():
    # -log(e^0 + e^0) and a sum that would overflow without care.
    assert energy(np.array([[0.0, 0.0], [1000.0, 0.0]])) == pytest.approx([-math.log(2), -1000])
    assert energy_threshold(np.arange(101.0), 0.05) == pytest.approx(95)
