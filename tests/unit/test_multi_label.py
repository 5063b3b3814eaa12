"""Several labels an image: targets, loss, metrics and calibration against values worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from marquee.handlers.core.spec import VariantSpec
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec, sigmoid
from marquee.training.core.errors import DataError
from marquee.training.tasks.classification.calibration import fit_temperature, multi_label_likelihood
from marquee.training.tasks.image_classification.config import (
    AugmentConfig,
    ClassificationExportConfig,
    ImageRunConfig,
    LossConfig,
    ModelConfig,
)
from marquee.training.tasks.image_classification.data.loading import MultiHotEncoder
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record, one_name, several_names
from marquee.training.tasks.image_classification.data.mixing import Mixing
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing
from marquee.training.tasks.image_classification.losses import MultiLabelCrossEntropy
from marquee.training.tasks.image_classification.multi_label import MultiLabelClassification
from marquee.training.tasks.image_classification.multi_label_metrics import multi_label_metrics
from marquee.training.tasks.image_classification.objective import MultiLabelObjective

RECORDS = tuple(Record(f"/{i}", label, "train", f"{i:064d}") for i, label in enumerate(["b|a", "a", "|", " c | a "]))


def test_names():
    assert [several_names(record) for record in RECORDS] == [("a", "b"), ("a",), (), ("a", "c")]
    assert one_name(RECORDS[0]) == ("b|a",)
    assert Manifest(RECORDS, several_names).labels == ("a", "b", "c")


def test_targets():
    encode = MultiHotEncoder(("a", "b", "c"))
    assert [encode(record).tolist() for record in RECORDS] == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]]
    with pytest.raises(DataError, match="class 'd' is not one of the model's"):
        encode(Record("/x", "a|d", "test"))


def test_loss():
    logits = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4 and 1/2
    loss = MultiLabelCrossEntropy(0)
    assert float(loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    # Smoothed by 0.2, a one is 0.9.
    smooth = MultiLabelCrossEntropy(0.2)
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25) + math.log(0.5)) / 2
    assert float(smooth(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(expected)


def test_what_counts_as_right():
    logits = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, -2.0]])
    objective = MultiLabelObjective(
        MultiLabelCrossEntropy(0), Mixing(AugmentConfig(), 2), ProgressiveResizing(1.0, 32, 1)
    )
    assert objective.right(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])) == 2
    truth = torch.tensor([[1.0, 0.0]])
    expected = -math.log(sigmoid(np.array(1.0))) - math.log(1 - sigmoid(np.array(-1.0)))
    assert objective.likelihood(logits[:1], truth) == pytest.approx(expected)


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
    assert fit_temperature(3 * logits, targets, multi_label_likelihood) == pytest.approx(3, rel=0.05)
    variant = VariantSpec(name="fp32", engine="exported", precision="fp32", files={"model.pt2": "0" * 64})
    output = MultiLabelSpec(labels=("a", "b", "c")).create(variant, Path())
    config = ImageRunConfig(model=ModelConfig(multi_label=True), loss=LossConfig(name="bce"))
    found = MultiLabelClassification().calibrate(config, output, {"logits": 3 * logits}, targets)
    assert found.facts["ece_after"] < found.facts["ece_before"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "loss.name: model.multi_label requires bce"),
        ({"loss": LossConfig(name="bce"), "augment": AugmentConfig(mixup=0.1)}, "augment.mixup"),
        ({"loss": LossConfig(name="bce"), "export": ClassificationExportConfig(max_error=0.1)}, "export.max_error"),
    ],
)
def test_what_does_not_go_together(parts, message):
    with pytest.raises(ValueError, match=message):
        ImageRunConfig(model=ModelConfig(multi_label=True), **parts)


def test_sigmoid_of_large_numbers():
    with np.errstate(all="raise"):
        assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
