"""A new classifier starts where nothing is known: at ln(classes), or at ln 2 for each answer of its own."""

import contextlib
import math
import re
from pathlib import Path

import pytest
import torch

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.core.task import task_of
from marquee.training.optimize.distil import DistilConfig, fine_tune
from marquee.training.tasks.image_classification.config import EFFICIENTNET_LITE0_WHEEL, ImageRunConfig, LossConfig
from marquee.training.tasks.image_classification.data.loading import EvaluationImages
from marquee.training.tasks.image_classification.data.manifest import Manifest
from marquee.training.tasks.image_classification.models import Classifier
from tests.integration.test_training import weights
from tests.unit.tiny import PLAIN, build, manifest_of, settings, train_without_export

FAMILIES = (
    "convnext_atto efficientnet_b0 fbnetc_100 ghostnet_100 hardcorenas_a mnasnet_100 mobilenetv3_small_100 "
    "mobilenetv4_conv_small regnetx_002 resnet18 tf_efficientnet_lite0 tinynet_e vit_tiny_patch16_224"
).split()
NEAR = 0.25
"""Nats. Heads that timm draws too large start 0.5 to 12 above."""
BCE = LossConfig(name="bce", label_smoothing=0)


@torch.no_grad()
def first_loss(model: Classifier, image: ImageSpec, config: ImageRunConfig, manifest: Manifest) -> float:
    """Of a step on all images, before anything was learnt."""
    images = EvaluationImages(manifest.records, task_of(config).encoder(manifest.labels), image)
    pixels, targets = zip(*(images[i] for i in range(len(images))), strict=True)
    model.train()
    wanted = torch.stack(targets) if config.model.multi_label else torch.tensor(targets)
    loss = task_of(config).create_loss(config)
    return loss(model(torch.stack(pixels)), wanted).item()


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.slow
def test_one_logit(arch, photos):
    """The fewer the outputs, the larger the weights that some families draw."""
    manifest, config = manifest_of(photos, "ab"), settings(arch, BCE)
    model, image = build(config, manifest)
    assert first_loss(model, image, config, manifest) == pytest.approx(math.log(2), abs=NEAR)


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "mobilenetv3_small_100"])
@pytest.mark.parametrize(
    ("labels", "loss", "expected"),
    [
        ("ab", PLAIN, math.log(2)),
        ("abcd", PLAIN, math.log(4)),
        ("abcd", BCE, math.log(2)),
        (["a|b", "b", "a|c", "|"], BCE, math.log(2)),
    ],
    ids=["two classes", "four classes", "one against the rest", "several labels"],
)
def test_outputs_and_losses(arch, labels, loss, expected, photos):
    several = "|" in labels
    manifest, config = manifest_of(photos, labels, several), settings(arch, loss, multi_label=several)
    model, image = build(config, manifest)
    assert first_loss(model, image, config, manifest) == pytest.approx(expected, abs=NEAR)


def test_from_pretrained_weights(photos):
    manifest = manifest_of(photos, "abc")
    config = settings("tf_efficientnet_lite0", pretrained=EFFICIENTNET_LITE0_WHEEL)
    model, image = build(config, manifest)
    assert first_loss(model, image, config, manifest) == pytest.approx(math.log(3), abs=NEAR)


def test_equal_seeds_give_equal_heads(photos):
    manifest, config = manifest_of(photos, "abc"), settings("test_efficientnet")
    one, other = (build(config, manifest)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def begun(photos, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run that was ended between its epoch and its export, and gone on with; and its weights from before that."""
    run = tmp_path_factory.mktemp("runs") / "ab"
    config = settings("test_efficientnet")
    train_without_export(config, manifest_of(photos, "ab"), run)
    before = weights(run, "best")
    train(config, None, run, resume=True)
    return run, before


@pytest.fixture(scope="module")
def run(begun) -> Path:
    return begun[0]


@pytest.mark.slow
class TestFromAnotherRun:
    def test_the_same_labels_keep_the_head(self, photos, run):
        model, _ = build(settings("test_efficientnet", pretrained=str(run)), manifest_of(photos, "ab"))
        trained = weights(run, "best")
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items() if "." in name)

    @pytest.mark.parametrize("labels", ["cd", "abc"])
    def test_other_labels_get_a_new_one(self, labels, photos, run):
        """As many classes as before are other classes all the same."""
        manifest, config = manifest_of(photos, labels), settings("test_efficientnet", pretrained=str(run))
        model, image = build(config, manifest)
        assert first_loss(model, image, config, manifest) == pytest.approx(math.log(len(labels)), abs=NEAR)
        trained = weights(run, "best")
        assert torch.equal(model.backbone.conv_stem.weight, trained["backbone.conv_stem.weight"])
        assert not torch.equal(model.backbone.classifier.weight, trained["backbone.classifier.weight"][:1])

    def test_a_resumed_run_keeps_its_weights(self, begun):
        run, before = begun
        after = weights(run, "best")
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_student(photos, caplog):
    """One whose classifier is new: a pruned one has its teacher's."""
    manifest, config = manifest_of(photos, "abcd"), settings("resnet18")
    teacher, image = build(config, manifest)
    student, _ = build(settings("tf_efficientnet_lite0"), manifest)
    caplog.set_level("INFO", "marquee")
    with contextlib.suppress(TrainingError):  # three images prove nothing
        fine_tune(student, teacher, config, manifest, image, DistilConfig(epochs=1, teacher_weight=0), Progress())
    (loss,) = re.findall(r"train loss ([0-9.]+)", caplog.text)
    assert float(loss) == pytest.approx(math.log(4), abs=NEAR)
