"""Losses, optimisers, schedules, averages and mixing against values worked out by hand."""

import math

import numpy as np
import pytest
import timm
import torch
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn

from marquee.training.core.checkpoint import CheckpointStore, TrainingState, load_checkpoint
from marquee.training.core.config import OptimizerConfig
from marquee.training.core.ema import WeightAverage
from marquee.training.core.errors import CheckpointError, TrainingError
from marquee.training.core.optim import create_optimizer, parameter_groups, set_learning_rate
from marquee.training.core.schedules import learning_rate
from marquee.training.core.seeding import local_seed
from marquee.training.tasks.image_classification.config import AugmentConfig, LossConfig, ModelConfig
from marquee.training.tasks.image_classification.data.mixing import Mixing
from marquee.training.tasks.image_classification.losses import create_loss, one_logit
from marquee.training.tasks.image_classification.models import Classifier, architectures, create_backbone


def rates(steps_per_epoch: int, epochs: int, **fields) -> list[float]:
    config = OptimizerConfig(lr=1.0, min_lr=fields.pop("min_lr", 0.0), **fields)
    return [learning_rate(config, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


class TestSchedules:
    def test_warm_up_and_cosine(self):
        found = rates(2, 5, warmup_epochs=2)
        assert found[:4] == [0.25, 0.5, 0.75, 1.0]
        # Six steps of half a cosine: 1/2 (1 + cos(pi k / 6)) for k = 1..6.
        assert found[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 7)])

    def test_the_cosine_ends_at_the_floor(self):
        assert rates(10, 1, warmup_epochs=0, min_lr=0.1)[-1] == pytest.approx(0.1)
        # A run that was extended past the end of its schedule stays there.
        assert learning_rate(OptimizerConfig(lr=1.0, min_lr=0.1), 99, 5, 2) == pytest.approx(0.1)

    def test_step(self):
        found = rates(2, 6, schedule="step", step_epochs=2, step_factor=0.5, warmup_epochs=1)
        assert found == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]

    def test_constant(self):
        assert rates(2, 3, schedule="constant", warmup_epochs=0.5) == [1.0] * 6
        assert rates(2, 2, schedule="constant", warmup_epochs=1) == [0.5, 1.0, 1.0, 1.0]

    def test_one_cycle(self):
        found = rates(10, 1, schedule="one-cycle", warmup_epochs=0)
        # A twenty-fifth to 1 over three steps in half a cosine, then seven down to 0.
        up = [1 + (1 / 25 - 1) * 0.5 * (1 + math.cos(math.pi * k / 3)) for k in (1, 2)]
        down = [0.5 * (1 + math.cos(math.pi * k / 7)) for k in range(8)]
        assert found == pytest.approx(up + down)

    def test_one_cycle_after_a_warm_up(self):
        found = rates(10, 2, schedule="one-cycle", warmup_epochs=1)
        assert found[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
        assert found[10:] == pytest.approx(rates(10, 1, schedule="one-cycle", warmup_epochs=0))


class TestLosses:
    LOGITS = torch.tensor(
        [[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.1), math.log(0.6), math.log(0.3)]]
    )
    TARGETS = torch.tensor([0, 2])

    def value(self, logits, targets, **fields) -> float:
        return float(create_loss(LossConfig(**{"label_smoothing": 0, **fields}))(logits, targets))

    def test_cross_entropy(self):
        assert self.value(self.LOGITS, self.TARGETS) == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2)

    def test_focal(self):
        expected = -(0.3**2 * math.log(0.7) + 0.7**2 * math.log(0.3)) / 2
        assert self.value(self.LOGITS, self.TARGETS, name="focal") == pytest.approx(expected)
        plain = self.value(self.LOGITS, self.TARGETS, name="focal", focal_gamma=0)
        assert plain == pytest.approx(self.value(self.LOGITS, self.TARGETS))

    def test_mse(self):
        first, second = 0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.6**2 + 0.7**2
        assert self.value(self.LOGITS, self.TARGETS, name="mse") == pytest.approx((first + second) / 2)

    def test_bce_one_against_the_rest(self):
        logits = torch.tensor([[0.0, math.log(3)]]).repeat(1, 2)[:, :3]  # probabilities 1/2, 3/4, 1/2
        expected = -(math.log(0.5) + math.log(0.75) + math.log(0.5)) / 3
        assert self.value(logits, torch.tensor([1]), name="bce") == pytest.approx(expected)

    def test_bce_of_two_classes_is_one_decision(self):
        logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
        assert self.value(logits, torch.tensor([1, 0]), name="bce") == pytest.approx(
            -(math.log(0.75) + math.log(0.25)) / 2
        )
        assert one_logit(LossConfig(name="bce"), 2)
        assert not one_logit(LossConfig(name="bce"), 3)
        assert not one_logit(LossConfig(), 2)

    @pytest.mark.parametrize("name", ["cross-entropy", "bce", "focal", "mse"])
    def test_indices_and_their_probabilities_are_the_same_target(self, name):
        soft = nn.functional.one_hot(self.TARGETS, 3).float()
        hard = self.value(self.LOGITS, self.TARGETS, name=name, label_smoothing=0.2)
        assert hard == pytest.approx(self.value(self.LOGITS, soft, name=name, label_smoothing=0.2))
        assert hard != pytest.approx(self.value(self.LOGITS, soft, name=name))

    def test_one_logit_becomes_two(self):
        model = Classifier(create_backbone(ModelConfig(arch="resnet9_w32"), small(), 1, 1), (0.5,), (0.5,)).eval()
        pixels = torch.randint(0, 255, (3, 28, 28, 1), dtype=torch.uint8)
        logits = model(pixels)
        assert logits.shape == (3, 2)
        assert torch.equal(logits[:, 0], torch.zeros(3))
        one = model.backbone((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        assert torch.allclose(logits.softmax(1)[:, 1:], one.sigmoid())


def small():
    from marquee.training.tasks.image_classification.config import ImageConfig

    return ImageConfig(size=28)


# Those whose library is not among ours, and hence refused by name.
FOREIGN = ("bnb", "fused", "apex")


class TestOptimizers:
    # Kron compiles its parts; which arithmetic is kept and restored is the same without, and no compiler is at work in
    # the process of the tests.
    @torch.compiler.set_stance("force_eager")
    @pytest.mark.parametrize("name", [n for n in list_optimizers() if not n.startswith(FOREIGN)])
    @pytest.mark.slow
    def test_every_one_of_timm_resumes_exactly_or_is_refused(self, name, tmp_path):
        def parts():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
            model(torch.zeros(1, 1, 4, 4))
            return model, create_optimizer(model, OptimizerConfig(name=name, lr=0.01), torch.device("cpu"))

        def step(model, optimizer, number):
            torch.manual_seed(number)
            model(torch.randn(8, 1, 4, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        scaler = torch.amp.GradScaler("cpu", enabled=False)
        if get_optimizer_info(name).second_order:
            with pytest.raises(TrainingError, match=f"--optimizer.name {name}"):
                parts()
            return
        model, optimizer = parts()
        start = model[0].weight.clone()
        for number in range(3):
            step(model, optimizer, number)
        assert not torch.equal(start, model[0].weight)
        try:
            path = CheckpointStore(tmp_path).save(model, optimizer, scaler, TrainingState(), best=False)
        except CheckpointError as error:
            assert "cannot be saved" in str(error)
            return
        other, other_optimizer = parts()
        load_checkpoint(path, other, other_optimizer, scaler)
        for number in range(3, 6):
            step(model, optimizer, number)
            step(other, other_optimizer, number)
        assert torch.equal(model[0].weight, other[0].weight)

    @pytest.mark.parametrize("name", ["adamv", "bnbsgd", "fusedlamb"])
    def test_unknown_or_not_installed(self, name):
        with pytest.raises(TrainingError, match=f"--optimizer.name {name}"):
            create_optimizer(nn.Linear(2, 2), OptimizerConfig(name=name), torch.device("cpu"))

    def test_settings_arrive(self):
        def group(**fields):
            return create_optimizer(nn.Linear(2, 2), OptimizerConfig(**fields), torch.device("cpu")).param_groups[0]

        assert group(name="adamw", beta1=0.8, beta2=0.9)["betas"] == (0.8, 0.9)
        assert group(name="sgd", momentum=0.7)["momentum"] == 0.7
        assert group(name="sgd")["nesterov"]
        assert not group(name="momentum")["nesterov"]
        assert isinstance(
            create_optimizer(nn.Linear(2, 2), OptimizerConfig(name="adam"), torch.device("cpu")), torch.optim.Adam
        )

    def test_vectors_get_no_weight_decay(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        decay = {
            id(parameter): group["weight_decay"]
            for group in parameter_groups(model, OptimizerConfig(weight_decay=0.3))
            for parameter in group["params"]
        }
        assert decay[id(model[0].weight)] == 0.3
        assert [decay[id(p)] for p in (model[0].bias, model[1].weight, model[1].bias)] == [0, 0, 0]

    @pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "resnet9_w32"])
    def test_rates_fall_from_layer_to_layer(self, arch):
        backbone = architectures().create_model(arch, num_classes=3)
        model = Classifier(backbone, (0.5,) * 3, (0.5,) * 3)
        config = OptimizerConfig(lr=1.0, layer_decay=0.5)
        optimizer = create_optimizer(model, config, torch.device("cpu"))
        set_learning_rate(optimizer, 0.1)
        rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        head = {rate[id(p)] for p in backbone.get_classifier().parameters()}
        first = rate[id(next(backbone.parameters()))]
        assert head == {0.1}
        assert 0 < first <= 0.1 * 0.5**2
        assert len(rate) == len(list(model.parameters()))

    def test_freezing(self):
        model = Classifier(timm.create_model("test_resnet", num_classes=3), (0.5,) * 3, (0.5,) * 3)
        model.train()
        model.set_frozen(True)
        learning = [name for name, p in model.named_parameters() if p.requires_grad]
        assert learning
        assert all(name.startswith("backbone.fc") for name in learning)
        assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        model.train()
        model.set_frozen(False)
        assert all(p.requires_grad for p in model.parameters())
        assert all(m.training for m in model.modules())


def test_the_average_of_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.5)
    expected = 1.0
    for step, value in enumerate((2.0, 5.0, 11.0, 4.0, 7.0, 3.0)):
        nn.init.constant_(model.weight, value)
        average.update(model, step)
        # The decay rises as 1 - step ** (-2/3) and stays at 0.5 from step 3 on.
        decay = min(0.5, 1 - step ** (-2 / 3)) if step else 0.0
        expected = decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


class TestMixing:
    PIXELS = torch.stack([torch.full((8, 8, 1), value, dtype=torch.uint8) for value in (0, 100, 200)])
    LABELS = torch.tensor([0, 1, 2])

    def mix(self, seed=0, **fields):
        with local_seed(seed):
            return Mixing(AugmentConfig(**fields), 3)(self.PIXELS, self.LABELS)

    def test_off(self):
        pixels, labels = self.mix()
        assert pixels is self.PIXELS
        assert labels is self.LABELS
        assert not Mixing(AugmentConfig(), 3).enabled

    def test_mixup_blends_pixels_as_it_blends_labels(self):
        pixels, targets = self.mix(mixup=1.0)
        assert targets.sum(1) == pytest.approx(torch.ones(3))
        levels = targets @ torch.tensor([0.0, 100.0, 200.0])
        assert torch.allclose(pixels, levels.view(3, 1, 1, 1).expand(3, 8, 8, 1), atol=1e-3)
        assert 0 < targets.max() < 1

    def test_cutmix_takes_a_rectangle_as_large_as_its_share(self):
        for seed in range(5):
            pixels, targets = self.mix(seed, cutmix=1.0)
            shares = torch.stack([(pixels == level).float().mean((1, 2, 3)) for level in (0, 100, 200)], 1)
            assert torch.allclose(shares, targets, atol=1e-6)

    def test_a_share_of_the_steps(self):
        mixed = sum(self.mix(seed, mixup=1.0, mix_probability=0.25)[1].ndim == 2 for seed in range(200))
        assert 30 <= mixed <= 70
        assert not Mixing(AugmentConfig(mixup=1.0, mix_probability=0), 3).enabled

    def test_equal_seeds_mix_equally(self):
        first, second = (self.mix(7, mixup=0.4, cutmix=1.0)[0] for _ in range(2))
        assert torch.equal(first, second)
        assert not np.array_equal(first, self.mix(8, mixup=0.4, cutmix=1.0)[0])
