"""Of two labels either has its reasons, also where the model computes a single number for both."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.explain.explainer import Explanation, ImageExplainer
from marquee.handlers.explain.request import METHODS, ExplanationRequest
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec
from marquee.training.core.export import export_program
from marquee.training.core.progress import Progress
from marquee.training.importing.bundle import import_bundle
from marquee.training.importing.config import ImportConfig
from marquee.training.tasks.image_classification.models import Classifier

SIDE = 32
LABELS = ("dark", "bright")
IMAGE = ImageSpec(channels=3, resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)


def network(outputs: int) -> nn.Sequential:
    """Counts bright places: its only logit is positive where there are more of them than dark ones.

    With two outputs, these are the evidence for dark and for bright.
    """
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, outputs))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3])[..., None, None])
        module[0].bias.fill_(-0.6)  # grey is neither
        module[4].weight.copy_(torch.tensor([[-20.0, 20.0]]) if outputs == 1 else torch.tensor([[20.0, 0], [0, 20.0]]))
        module[4].bias.zero_()
    return module.eval()


def picture(level: int) -> np.ndarray:
    """Grey with a patch of another level: uint8 (1, SIDE, SIDE, 3)."""
    pixels = np.full((1, SIDE, SIDE, 3), 128, np.uint8)
    pixels[:, 8:16, 16:24] = level
    return pixels


DARK, BRIGHT = picture(0), picture(255)


def exported(outputs: int, folder: Path, output: ClassificationSpec) -> Predictor:
    export_program(Classifier(network(outputs), IMAGE.mean, IMAGE.std).eval(), IMAGE, folder / "model.pt2")
    files = {"model.pt2": sha256_file(folder / "model.pt2")}
    variant = VariantSpec(name="fp32", engine="exported", precision="fp32", files=files)
    spec = ModelSpec(
        schema_version=3,
        task="image-classification",
        input=IMAGE,
        output=output,
        variants=(variant,),
        golden=GoldenSpec(),
    )
    bundle = Bundle(folder, spec)
    return Predictor(bundle, variant, load_engine(bundle, variant, "cpu"))


def explained(predictor: Predictor, pixels: np.ndarray, method: str, label: str | None = None) -> Explanation:
    (prediction,) = predictor.predict_arrays({"pixels": pixels})
    request = ExplanationRequest(method=method, label=label)
    return ImageExplainer(predictor).explain({"pixels": pixels}, prediction, request, seconds=30)


def on_the_patch(heat: np.ndarray) -> float:
    """Of what speaks for the label, the part on the patch and the places around it that a map blurs."""
    positive = np.maximum(heat, 0)
    return float(positive[4:20, 12:28].sum() / positive.sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("label", "pixels"), [("dark", DARK), ("bright", BRIGHT)])
def test_either_label_of_one_logit_has_its_map(tmp_path, method, label, pixels):
    predictor = exported(1, tmp_path, ClassificationSpec(labels=LABELS))
    logits = predictor.outputs({"pixels": pixels})["logits"]
    assert logits[0, 0] == 0  # by itself, this one explains nothing
    found = explained(predictor, pixels, method)
    assert (found.method, found.label, found.note) == (method, label, None)
    assert on_the_patch(found.heat) > 0.9


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_what_speaks_for_one_speaks_against_the_other(tmp_path, method):
    predictor = exported(1, tmp_path, ClassificationSpec(labels=LABELS))
    dark, bright = (explained(predictor, DARK, method, label).heat for label in LABELS)
    assert np.abs(dark).max() > 0.01
    assert np.allclose(dark, -bright, atol=1e-5)


def test_integrated_gradients_sum_to_the_difference(tmp_path):
    """Of either label, to the change of its log-odds from the baseline."""
    predictor = exported(1, tmp_path, ClassificationSpec(labels=LABELS))
    logits = predictor.outputs({"pixels": np.concatenate([DARK, np.full_like(DARK, 128)])})["logits"]
    change = (logits[0] - logits[0, ::-1]) - (logits[1] - logits[1, ::-1])
    for index, label in enumerate(LABELS):
        heat = explained(predictor, DARK, "integrated_gradients", label).heat
        assert heat.sum() == pytest.approx(change[index], rel=0.05)


def test_one_logit_is_explained_as_two_are(tmp_path):
    """The same answers from a logit for each label have the same reasons."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = exported(1, tmp_path / "one", ClassificationSpec(labels=LABELS))
    two = exported(2, tmp_path / "two", ClassificationSpec(labels=LABELS))
    for method in METHODS:
        for label in LABELS:
            maps = [explained(predictor, DARK, method, label).heat for predictor in (one, two)]
            assert np.allclose(*maps, atol=1e-4), (method, label)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_are_decisions_of_their_own_keep_their_logits(tmp_path, method):
    """Nothing in a dark picture speaks against its being bright as well."""
    predictor = exported(2, tmp_path, MultiLabelSpec(labels=LABELS))
    assert on_the_patch(explained(predictor, DARK, method, "dark").heat) > 0.9
    assert not explained(predictor, DARK, method, "bright").heat.any()


def write_onnx(path: Path, last: str | None) -> Path:
    """The network with one output, from values normalised for it, with or without a sigmoid at its end."""
    module = network(1)
    weights = [(f"w{number}", parameter.detach().numpy()) for number, parameter in enumerate(module.parameters())]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "w3"], ["y"], transB=1),
    ]
    if last is not None:
        nodes.append(helper.make_node(last, ["y"], ["p"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y" if last is None else "p", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def imported(tmp_path: Path, last: str | None, output: str) -> Predictor:
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (tmp_path / "images").mkdir()
    for label, pixels in zip(LABELS, (DARK, BRIGHT), strict=True):
        Image.fromarray(pixels[0]).save(tmp_path / "images" / f"{label}.png")
    config = ImportConfig(
        model=write_onnx(tmp_path / "net.onnx", last),
        labels=tmp_path / "labels.txt",
        images=tmp_path / "images",
        mean=IMAGE.mean,
        std=IMAGE.std,
        size=SIDE,
        resize=SIDE,
        output=output,
    )
    import_bundle(config, tmp_path / "run", Progress(quiet=True))
    return Predictor.load(tmp_path / "run" / "bundle")


def test_an_imported_model_of_one_output(tmp_path):
    """Of a sigmoid's logarithms, that of the likely label hardly changes; the difference is that of the logits."""
    for last in ("logit", "sigmoid"):
        (tmp_path / last).mkdir()
    of_logit = imported(tmp_path / "logit", None, "logits")
    of_sigmoid = imported(tmp_path / "sigmoid", "Sigmoid", "probabilities")
    for label, pixels in zip(LABELS, (DARK, BRIGHT), strict=True):
        maps = []
        for predictor in (of_logit, of_sigmoid):
            found = explained(predictor, pixels, "occlusion")
            assert (found.label, found.note) == (label, None)
            assert on_the_patch(found.heat) > 0.9
            maps.append(found.heat)
        assert np.allclose(*maps, atol=1e-3)
