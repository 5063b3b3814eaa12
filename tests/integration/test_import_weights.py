"""Weights as training scripts save them: beside an optimizer, nested, under prefixes, with several sets in one file."""

import argparse
import datetime
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from torch import nn

from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.spec import PIXELS
from marquee.handlers.outputs.classification import LOGITS
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.importing.bundle import import_bundle
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.ready import ReadyModel
from marquee.training.importing.torch_weights import prepare

SIDE = 32
LABELS = ("a", "b", "c", "d", "e")
ORDERED = {"mean": (0.3, 0.4, 0.5), "std": (0.2, 0.25, 0.3)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "photos"
    folder.mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).resize((96, 64)).save(folder / f"{name}.png")
    (folder.parent / "labels.txt").write_text("\n".join(LABELS))
    return folder


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=len(LABELS)).eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network(0)


@pytest.fixture(scope="module")
def other() -> nn.Module:
    return network(1)


def settings(path, photos, **options) -> ImportConfig:
    options = {"arch": "test_resnet", "size": SIDE, **ORDERED, **options}
    return ImportConfig(model=path, labels=photos.parent / "labels.txt", images=photos, **options)


def read(path, photos, **options) -> ReadyModel:
    """The file as it is imported, but for the export."""
    return prepare(settings(path, photos, **options), LABELS)


def assert_is(net, ready, mean=ORDERED["mean"], std=ORDERED["std"], bgr=False):
    """The model answers noise as ``net`` does."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    images = images.flip(1) if bgr else images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        wanted = net((images - mean) / std).numpy()
    assert np.abs(wanted - ready.normalised(ready.image.mean, ready.image.std)(pixels)).max() < 1e-4


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def training_state(net) -> dict:
    """What an optimizer stores: tensors by number, which are no weights."""
    optimizer = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("net.bin", lambda state: state),
        ("net.ckpt", lambda state: {"model_state_dict": state, "epoch": 3, "loss": 0.25}),
        ("net.pth.tar", lambda state: {"state_dict": prefixed(state, "module."), "best_acc1": torch.tensor(71.5)}),
        ("net.CKPT", lambda state: {"state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(5)}}),
        ("net.pt", lambda state: {"model": prefixed(state, "_orig_mod.module."), "args": argparse.Namespace(lr=1)}),
        ("net.th", lambda state: {"net": prefixed(state, "backbone."), "history": [1, 2], "name": "x"}),
        ("net.pth", lambda state: {"ema": {"module": state, "decay": 0.99}, "updates": 7}),
        ("net.pth", lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(4)}),
        ("net.pth", lambda state: {"model": state, "model_ema": {k: v.clone() for k, v in state.items()}}),
        ("net.pth", lambda state: {"something": {"else": {"weights": state}}}),
    ],
)
def test_weights_are_found_where_scripts_store_them(name, wrap, net, photos, tmp_path):
    torch.save(wrap(net.state_dict()) | {"optimizer": None}, tmp_path / name)
    assert_is(net, read(tmp_path / name, photos))


def test_an_optimizer_beside_the_weights(net, photos, tmp_path):
    trained = network(0)
    state = {key: value.clone() for key, value in trained.state_dict().items()}
    torch.save({"optimizer": training_state(trained), "model_state_dict": state}, tmp_path / "net.ckpt")
    assert_is(net, read(tmp_path / "net.ckpt", photos))


def test_of_several_sets_one_is_chosen_by_name(net, other, photos, tmp_path):
    torch.save({"model": net.state_dict(), "ema": {"module": other.state_dict()}}, tmp_path / "net.ckpt")
    with pytest.raises(TrainingError, match="several sets .*: model, ema/module; choose one with --weights-key"):
        read(tmp_path / "net.ckpt", photos)
    with pytest.raises(TrainingError, match="--weights-key swa: .* has no such weights; there are model, ema/module"):
        read(tmp_path / "net.ckpt", photos, weights_key="swa")
    for key, wanted, place in (
        ("model", net, "model"),
        ("ema", other, "ema/module"),
        ("ema/module", other, "ema/module"),
    ):
        ready = read(tmp_path / "net.ckpt", photos, weights_key=key)
        assert_is(wanted, ready)
        assert ready.facts["weights"] == place
    teacher = prefixed(net.state_dict(), "student.") | prefixed(other.state_dict(), "teacher.")
    torch.save(teacher, tmp_path / "pair.pth")
    with pytest.raises(TrainingError, match="student, teacher; choose one"):
        read(tmp_path / "pair.pth", photos)
    assert_is(other, read(tmp_path / "pair.pth", photos, weights_key="teacher"))


def test_what_belongs_to_no_network_is_told(net, photos, script, tmp_path):
    torch.save(
        {"state_dict": {**prefixed(net.state_dict(), "model."), "loss.weight": torch.ones(5)}}, tmp_path / "n.ckpt"
    )
    options = ["--arch", "test_resnet", "--size", SIDE, "--labels", photos.parent / "labels.txt", "--images", photos]
    told = script("import_model", "--model", tmp_path / "n.ckpt", *options, "--out", tmp_path / "run").stdout
    assert "weights of the file that are not the network's: loss.weight\n" in told


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pth.tar", ".pt", ".th"])
def test_no_code_of_a_file_is_run(suffix, net, photos, tmp_path):
    file = tmp_path / f"net{suffix}"
    torch.save({"model": net.state_dict(), "extra": Trap(tmp_path / "ran")}, file)
    with pytest.raises(TrainingError, match="a pickle that calls .*open, which could run any code; where it was made"):
        read(file, photos)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_refused(net, photos, tmp_path):
    def refused(name, message, **options):
        with pytest.raises(TrainingError, match=message) as error:
            read(tmp_path / name, photos, **options)
        assert "\n" not in str(error.value)

    (tmp_path / "model.bin").write_bytes(b"\0" * 400)
    refused("model.bin", "not a file of torch.save")
    (tmp_path / "model.xml").write_text("<net/>")
    refused("model.bin", r"part of an OpenVINO IR .* use --model .*model\.xml")
    torch.save({"epoch": 3, "date": datetime.date(2024, 1, 1)}, tmp_path / "date.ckpt")
    refused("date.ckpt", "a pickle that calls datetime.date")
    torch.save({"epoch": 3}, tmp_path / "none.ckpt")
    refused("none.ckpt", "has no tensors with names")
    state = net.state_dict()
    torch.save({"model_state_dict": {key: state[key] for key in list(state)[:-1]}}, tmp_path / "part.ckpt")
    refused("part.ckpt", "under model_state_dict: 1 missing")
    torch.save(state | {"aux.weight": torch.ones(2)}, tmp_path / "more.ckpt")
    refused("more.ckpt", r"1 unknown \(aux.weight\)")
    torch.save({"vit.embeddings.cls_token": torch.ones(2), "vit.encoder.x": torch.ones(1)}, tmp_path / "hf.bin")
    refused("hf.bin", "unknown .*a model of transformers, export it to ONNX")


def test_blue_first(net, photos, tmp_path):
    """The mean is in the model's order; the spec has it for the decoded pixels, which have red first."""
    torch.save(net.state_dict(), tmp_path / "net.pth")
    config = settings(tmp_path / "net.pth", photos, channel_order="bgr")
    imported = import_bundle(config, tmp_path / "run", Progress(quiet=True))
    predictor = Predictor.load(tmp_path / "run" / "bundle")
    assert predictor.spec.input.mean == ORDERED["mean"][::-1]
    assert imported.spec.provenance["imported"]["channel_order"] == "bgr"
    assert replay(predictor) == []
    ready = replace(read(config.model, photos), image=predictor.spec.input)
    served = replace(ready, normalised=lambda mean, std: lambda pixels: predictor.outputs({PIXELS: pixels})[LOGITS])
    assert_is(net, served, bgr=True)
    with pytest.raises(AssertionError):
        assert_is(net, served)
