"""Few, skewed and many classes: weights, a balanced sampler, balanced accuracy, and outputs that stay short."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.config import load_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import BalancedBatchSampler
from marquee.training.selection.candidates import read_ladder
from marquee.training.tasks.classification.evaluation_text import MOST_CLASSES, WEAKEST, class_lines
from marquee.training.tasks.classification.metrics import classification_metrics
from marquee.training.tasks.classification.names import prediction_columns
from marquee.training.tasks.image_classification.advice import advise
from marquee.training.tasks.image_classification.config import (
    AugmentConfig,
    ImageLoopConfig,
    ImageRunConfig,
    LossConfig,
    ModelConfig,
)
from marquee.training.tasks.image_classification.data.loading import TrainingImages
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.data.mixing import Mixing
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing
from marquee.training.tasks.image_classification.losses import (
    MultiLabelCrossEntropy,
    class_weights,
    create_loss,
    label_weights,
)
from marquee.training.tasks.image_classification.multi_label_metrics import multi_label_metrics
from marquee.training.tasks.image_classification.objective import ImageObjective, MultiLabelObjective
from tests.unit.tiny import manifest_of, settings

STRATA = ["a"] * 90 + ["b"] * 8 + ["c"] * 2


class TestBalancedSampler:
    def test_every_stratum_is_drawn_equally_often(self):
        plan = BalancedBatchSampler(STRATA, 10, seed=0)
        assert len(plan) == 10
        draws = [address for batch in plan for address in batch]
        assert sorted(Counter(STRATA[index] for _, index, _ in draws).values()) == [33, 33, 34]
        of_b = Counter(index for _, index, _ in draws if STRATA[index] == "b")
        assert len(of_b) == 8
        assert max(of_b.values()) - min(of_b.values()) <= 1
        assert len(set(draws)) == len(draws)  # so that no two variations are the same
        assert {turn for _, index, turn in draws if STRATA[index] == "a"} == {0}

    def test_every_rank_has_its_share_of_the_same_batches(self):
        whole = list(BalancedBatchSampler(STRATA, 10, 3))
        shares = [list(BalancedBatchSampler(STRATA, 10, 3, rank, 2)) for rank in range(2)]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert sorted(batch) == sorted(parts[0] + parts[1])
            assert [len(part) for part in parts] == [5, 5]

    def test_it_goes_on_where_it_was(self):
        plan = BalancedBatchSampler(STRATA, 10, 0, passes=2)
        plan.epoch = 4
        everything, indices = list(plan), list(plan.shares())
        assert len(everything) == 20
        assert plan.items_of(4, 13) == indices[13] == [index for _, index, _ in everything[13]]
        plan.start = 13
        assert list(plan) == everything[13:]
        plan.start, plan.epoch = 0, 5
        assert list(plan) != everything
        assert list(plan)[:10] != list(plan)[10:]

    def test_all_items_come_within_a_few_epochs(self):
        plan, seen = BalancedBatchSampler(STRATA, 10, 0), set()
        for plan.epoch in range(12):
            seen |= {index for batch in plan for _, index, _ in batch}
        assert len(seen) == 100

    def test_draws_of_an_image_vary(self, photos):
        records = manifest_of(photos, "ab").split("train")
        images = TrainingImages(
            records, lambda _: 0, ImageSpec(channels=1, resize=64, crop=64), lambda _: torch.rand(1), seed=0
        )
        drawn = [float(images[address][0]) for address in ((0, 1, 0), (0, 1, 1), (1, 1, 0), (0, 1, 1))]
        assert len(set(drawn)) == 3
        assert drawn[1] == drawn[3]


class TestWeights:
    def test_of_classes(self):
        weights = class_weights([90, 8, 2])
        assert weights.tolist() == pytest.approx([100 / 270, 100 / 24, 100 / 6])
        assert float((weights * torch.tensor([90, 8, 2])).sum()) == pytest.approx(100)
        assert class_weights([3, 0]).tolist()[0] == pytest.approx(1)

    def test_of_labels(self):
        weights = label_weights([2, 8, 0, 10], images=10)
        assert weights[:, 0].tolist() == pytest.approx([10 / 16, 10 / 4])
        assert weights[:, 1].tolist() == pytest.approx([10 / 4, 10 / 16])
        assert weights[:, 2:].tolist() == [[1, 1], [1, 1]]

    @pytest.mark.parametrize("name", ["cross-entropy", "bce", "focal", "mse"])
    @pytest.mark.parametrize("classes", [2, 3])
    def test_an_image_counts_by_its_class(self, name, classes):
        torch.manual_seed(0)
        logits, targets = torch.randn(6, classes), torch.tensor([0, 0, 0, 1, 1, classes - 1])
        weights = torch.tensor([0.5, 2.0, 4.0])[:classes]
        config = LossConfig(name=name)
        plain, weighted = create_loss(config), create_loss(config, weights)
        each = torch.stack([plain(logits[i : i + 1], targets[i : i + 1]) for i in range(6)])
        assert float(weighted(logits, targets)) == pytest.approx(float((each * weights[targets]).mean()), rel=1e-5)
        assert float(plain(logits, targets)) == pytest.approx(float(each.mean()), rel=1e-5)
        equal = create_loss(config, torch.ones(classes))
        assert float(equal(logits, targets)) == pytest.approx(float(each.mean()), rel=1e-5)
        # Mixed targets count by their shares; equal parts of a step have the mean of the whole.
        shares = torch.nn.functional.one_hot(targets, classes).float()
        assert float(weighted(logits, shares)) == pytest.approx(float(weighted(logits, targets)), rel=1e-5)
        halves = [float(weighted(logits[part], targets[part])) for part in (slice(0, 3), slice(3, 6))]
        assert float(weighted(logits, targets)) == pytest.approx(sum(halves) / 2, rel=1e-5)

    def test_a_label_counts_by_its_presence(self):
        logits, targets = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        loss = MultiLabelCrossEntropy(0.0, torch.tensor([[0.5, 1.0], [3.0, 1.0]]))
        assert float(loss(logits, targets)) == pytest.approx(math.log(2) * (3 + 1 + 0.5 + 1) / 4)

    def test_a_sampler_needs_one_label(self):
        with pytest.raises(ValueError, match=r"loop.balance: expected none or weights"):
            ImageRunConfig(
                model=ModelConfig(multi_label=True),
                loss=LossConfig(name="bce"),
                loop=ImageLoopConfig(balance="sampler"),
            )


class TestBalancedAccuracy:
    PARTS = (torch.nn.CrossEntropyLoss(), Mixing(AugmentConfig(), 3), ProgressiveResizing(1.0, 32, 1))

    def test_by_hand(self):
        """Four of five of the first class, none of the second; the third does not occur."""
        objective = ImageObjective(*self.PARTS, balanced=3)
        logits = torch.eye(3)[[0, 0, 0, 0, 1, 0]]
        sums = {"items": 6.0, **objective.validate(logits, (torch.zeros(6), torch.tensor([0, 0, 0, 0, 0, 1])))}
        score = objective.score(sums)
        assert score.value == pytest.approx((0.8 + 0) / 2)
        assert score.values == {"val_accuracy": pytest.approx(4 / 6), "val_balanced_accuracy": score.value}
        assert "balanced 0.4000" in score.text
        assert set(sums) == {"items", "loss", *objective.counted}
        plain = ImageObjective(*self.PARTS)
        assert plain.score(sums).value == pytest.approx(4 / 6)
        assert plain.counted == ("correct",)

    def test_of_several_labels(self):
        objective = MultiLabelObjective(MultiLabelCrossEntropy(0), *self.PARTS[1:], balanced=2)
        logits = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, -1.0]])
        truth = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        sums = {"items": 3.0, **objective.validate(logits, (torch.zeros(3), truth))}
        # Of the first label, one of two with it and none of one without; of the second, none of one and two of two.
        assert objective.score(sums).value == pytest.approx((0.5 + 0 + 0 + 1) / 4)


def weights_of(run):
    return safetensors.torch.load_file(RunFolder(run).checkpoints / "epoch-0002" / "weights.safetensors")


@pytest.mark.parametrize(("balance", "select"), [("sampler", "balanced"), ("weights", "validation")])
@pytest.mark.slow
def test_a_resumed_run_is_the_same(photos, tmp_path, balance, select):
    labels = ["a", "a", "a", "b"]
    manifest = manifest_of(photos, labels)
    config = settings("cnn4_w8", schedule="constant")
    loop = replace(config.loop, batch_size=4, balance=balance, select=select)
    for name, epochs in (("whole", (2,)), ("parts", (1, 2))):
        for count in epochs:
            run = replace(config, loop=replace(loop, epochs=count))
            resume = count > epochs[0]
            train(run, None, tmp_path / name, resume, None if resume else manifest, report=False)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(("val_balanced_accuracy" in line) == (select == "balanced") for line in lines)
    plain = replace(config, loop=replace(loop, epochs=2, balance="none", select="validation"))
    train(plain, None, tmp_path / "plain", False, manifest, report=False)
    others = weights_of(tmp_path / "plain")
    assert any(not torch.equal(whole[name], others[name]) for name in whole)


class TestAdvice:
    @staticmethod
    def lines(train: dict[str, int], test: int = 60, **loop) -> str:
        records = [Record(f"/{c}/{i}", c, "train", f"{c}{i}") for c, count in train.items() for i in range(count)]
        records += [Record(f"/t/{i}", list(train)[i % len(train)], "test", f"t{i}") for i in range(test)]
        config = ImageRunConfig(model=ModelConfig(pretrained="timm"), loop=ImageLoopConfig(**loop))
        return "\n".join(advise(config, Manifest(tuple(records))))

    def test_skewed_classes(self):
        text = self.lines({"cat": 500, "dog": 100, "newt": 20})
        assert "class 'cat' has 500 training images, 'newt' has 20" in text
        assert "--loop.balance weights" in text
        assert "--loop.select balanced" in text
        assert self.lines({"cat": 500, "dog": 100, "newt": 20}, balance="sampler") == ""
        assert self.lines({"cat": 500, "dog": 60}) == ""

    def test_few_images_have_a_wide_interval(self):
        text = self.lines({"cat": 500, "dog": 500}, test=20)
        assert "class 'cat', the smallest, has 510" in text
        assert "measured on 20 test images" in text
        assert "95 % interval of 90 % would be 70 % to 97 %" in text


class TestManyClasses:
    @staticmethod
    def metrics(classes: int) -> dict:
        rng = np.random.default_rng(0)
        targets = np.arange(4 * classes) % classes
        metrics = classification_metrics(rng.dirichlet(np.ones(classes), len(targets)), targets)
        metrics["per_class"] = [{"label": f"class {i}\n", **row} for i, row in enumerate(metrics["per_class"])]
        return metrics

    def test_300_classes_are_a_few_lines(self):
        lines = class_lines(self.metrics(300), "images")
        assert len("\n".join(lines)) < 3000
        assert "20 of 300 classes with the lowest recall; --json has all" in "\n".join(lines)
        assert any("most frequent confusions" in line for line in lines)
        assert not any("\n" in line for line in lines)

    def test_few_classes_are_shown_whole(self):
        lines = class_lines(self.metrics(MOST_CLASSES), "images")
        assert len(lines) == 2 + 2 * MOST_CLASSES
        assert WEAKEST < MOST_CLASSES

    def test_one_class_alone_is_measured(self):
        metrics = classification_metrics(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
        assert (metrics["auroc"], metrics["accuracy"], metrics["balanced_accuracy"]) == (None, 0.5, 0.5)
        metrics = multi_label_metrics(np.array([[0.9], [0.4]]), np.array([[1], [1]]))
        assert (metrics["auroc"], metrics["mean_average_precision"]) == (None, None)


def test_columns_of_predictions_have_names_of_their_own():
    assert prediction_columns(("cat", "dog")) == ("path", "label", "predicted", "cat", "dog")
    labels = ("label", "p(label)", "path", "predicted", "x")
    columns = prediction_columns(labels)
    assert len(set(columns)) == len(columns) == 8
    assert columns[:3] == ("path", "label", "predicted")
    assert columns[5:] == ("p(path)", "p(predicted)", "x")


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("1e-3", 1e-3), ("1E-3", 1e-3), ("1e5", 1e5), ("+2e-4", 2e-4), ("1.5e-3", 1.5e-3), (".5", 0.5), ("1", 1.0)],
    )
    def test_numbers_are_numbers(self, tmp_path, text, value):
        (tmp_path / "c.yaml").write_text(f"optimizer: {{lr: {text}, min_lr: 0}}\nloop: {{batch_size: 010}}\n")
        config = load_config(tmp_path / "c.yaml")
        assert config.optimizer.lr == value
        assert config.loop.batch_size == 10

    def test_in_a_ladder(self, tmp_path):
        (tmp_path / "l.yaml").write_text("- {name: a, config: {optimizer: {lr: 1e-3}}}\n")
        assert read_ladder(tmp_path / "l.yaml")[0].config == {"optimizer": {"lr": 1e-3}}

    @pytest.mark.parametrize("text", ["'1e-3'", "1:30", "fast"])
    def test_texts_are_none(self, tmp_path, text):
        (tmp_path / "c.yaml").write_text(f"optimizer: {{lr: {text}}}\n")
        with pytest.raises(TrainingError, match=r"optimizer.lr: expected float, got str"):
            load_config(tmp_path / "c.yaml")
