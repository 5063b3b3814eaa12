"""Several labels an image: targets, loss, metrics and calibration against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from marquee.handlers.predictor import Outputs, sigmoid
from marquee.training.calibration import calibrate, fit_temperature
from marquee.training.config import AugmentConfig, ExportConfig, LossConfig, ModelConfig, RunConfig
from marquee.training.data.loading import Encoder
from marquee.training.data.manifest import Manifest, Record, names_of
from marquee.training.errors import DataError
from marquee.training.losses import count_right, create_loss, negative_log_likelihood
from marquee.training.multi_label import multi_label_metrics

RECORDS = tuple(Record(f"/{i}", label, "train", f"{i:064d}") for i, label in enumerate(["b|a", "a", "|", " c | a "]))


def test_names():
    assert [names_of(record, True) for record in RECORDS] == [("a", "b"), ("a",), (), ("a", "c")]
    assert names_of(RECORDS[0], False) == ("b|a",)
    assert Manifest(RECORDS, multi_label=True).labels == ("a", "b", "c")


def test_targets():
    encode = Encoder(("a", "b", "c"), multi_label=True)
    assert [encode(record).tolist() for record in RECORDS] == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]]
    with pytest.raises(DataError, match="class 'd' is not one of the model's"):
        encode(Record("/x", "a|d", "test"))


def test_loss():
    logits = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4 and 1/2
    loss = create_loss(LossConfig(name="bce", label_smoothing=0), multi_label=True)
    assert float(loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    # Smoothed by 0.2, a one is 0.9.
    smooth = create_loss(LossConfig(name="bce", label_smoothing=0.2), multi_label=True)
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25) + math.log(0.5)) / 2
    assert float(smooth(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(expected)


def test_what_counts_as_right():
    logits = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -2.0]])
    assert count_right(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])) == 2
    truth = torch.tensor([[1.0, 0.0]])
    expected = -math.log(sigmoid(np.array(1.0))) - math.log(1 - sigmoid(np.array(-1.0)))
    assert negative_log_likelihood(logits[:1], truth) == pytest.approx(expected)


def test_metrics():
    probabilities = np.array([[0.9, 0.2], [0.8, 0.6], [0.3, 0.4]])
    targets = np.array([[1, 0], [1, 0], [0, 1]])
    metrics = multi_label_metrics(probabilities, targets)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    first, second = metrics["per_class"]
    assert first == {"images": 2, "precision": 1, "recall": 1, "f1": 1, "average_precision": 1}
    # The second label is predicted once, wrongly; its one image ranks second of three.
    assert second == {"images": 1, "precision": 0, "recall": 0, "f1": 0, "average_precision": 0.5}
    assert metrics["f1_macro"] == 0.5
    assert metrics["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["mean_average_precision"] == 0.75
    assert metrics["auroc"] == pytest.approx((1 + 0.5) / 2)
    of_truth = np.array([0.9, 0.8, 0.8, 0.4, 0.7, 0.4])
    assert metrics["nll"] == pytest.approx(-np.log(of_truth).mean())
    assert metrics["brier"] == pytest.approx(((1 - of_truth) ** 2).mean())


def test_a_label_that_all_or_none_have():
    metrics = multi_label_metrics(np.array([[0.9, 0.2], [0.8, 0.6]]), np.array([[1, 0], [1, 0]]))
    assert [row["average_precision"] for row in metrics["per_class"]] == [None, None]
    assert metrics["per_class"][1]["recall"] is None
    assert metrics["mean_average_precision"] is None


def test_the_temperature_undoes_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    targets = (rng.random((4000, 3)) < sigmoid(logits)).astype(np.float64)
    assert fit_temperature(3 * logits, targets) == pytest.approx(3, rel=0.05)
    found = calibrate(Outputs(3 * logits, None), targets, ExportConfig())
    assert found.facts["ece_after"] < found.facts["ece_before"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "loss.name: model.multi_label wants bce"),
        ({"loss": LossConfig(name="bce"), "augment": AugmentConfig(mixup=0.1)}, "augment.mixup"),
        ({"loss": LossConfig(name="bce"), "export": ExportConfig(max_error=0.1)}, "export.max_error"),
    ],
)
def test_what_does_not_go_together(parts, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(model=ModelConfig(multi_label=True), **parts)


def test_sigmoid_of_large_numbers():
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
