"""The ways to run one network that are compared: each a function from an architecture to a callable."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import SCHEMA_VERSION, GoldenSpec, ModelSpec, Precision, VariantSpec
from marquee.handlers.inputs.image.spec import PIXELS, ImageSpec
from marquee.handlers.outputs.classification import LOGITS, ClassificationSpec
from marquee.training.core.export import export_program, trace_program
from marquee.training.optimize.datasets import Samples
from marquee.training.optimize.openvino_ir import convert, quantize, save
from marquee.training.tasks.image_classification.low_precision import LowPrecision
from marquee.training.tasks.image_classification.models import Classifier

SIDE, CLASSES = 224, 1000
Call = Callable[[np.ndarray], Any]
"""uint8 (N, 224, 224, 3) -> logits."""
Build = Callable[..., tuple[Call, dict[str, int]]]
_IMAGE = ImageSpec(channels=3, resize=SIDE, crop=SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def make(name: str, arch: str, folder: Path, pixels: np.ndarray) -> tuple[Call, dict[str, int]]:
    """Builds a contender of a network of timm with random weights, which do not decide the speed.

    Args:
        name: one of :data:`CONTENDERS`.
        arch: of timm.
        folder: for its files.
        pixels: uint8 (N, 224, 224, 3), real images for the quantizer.

    Returns:
        The callable, and its kernels (empty where it cannot tell).
    """
    torch.manual_seed(0)
    backbone = timm.create_model(arch, num_classes=CLASSES)
    classifier = Classifier(backbone, _IMAGE.mean, _IMAGE.std).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CONTENDERS[name](classifier, folder, pixels)


def _in_precision(classifier: Classifier, precision: Precision) -> nn.Module:
    return classifier if precision == "fp32" else LowPrecision(classifier, torch.bfloat16)


def _eager(precision: Precision) -> Build:
    def build(classifier: Classifier, folder: Path, pixels: np.ndarray) -> tuple[Call, dict[str, int]]:
        module = _in_precision(classifier, precision)

        def call(batch: np.ndarray) -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(batch)).float().numpy()

        return call, {}

    return build


def _exported(precision: Precision, engine: str) -> Build:
    def build(classifier: Classifier, folder: Path, pixels: np.ndarray) -> tuple[Call, dict[str, int]]:
        path = folder / "model.pt2"
        export_program(_in_precision(classifier, precision), _IMAGE, path)
        return _load([path], folder, engine, precision)

    return build


def _openvino(precision: Precision) -> Build:
    def build(classifier: Classifier, folder: Path, pixels: np.ndarray) -> tuple[Call, dict[str, int]]:
        model = convert(trace_program(classifier, _IMAGE), _IMAGE)
        if precision == "int8":
            model, _ = quantize(model, Samples(inputs={PIXELS: pixels}, targets=None), None, 0.0)
        return _load(save(model, folder / "model.xml"), folder, "openvino", precision)

    return build


def _onnxruntime(classifier: Classifier, folder: Path, pixels: np.ndarray) -> tuple[Call, dict[str, int]]:
    import onnxruntime

    path = folder / "model.onnx"
    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.onnx.export(classifier, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    place = session.get_inputs()[0].name
    return (lambda batch: session.run(None, {place: batch})), {}


def _load(files: list[Path], folder: Path, engine: str, precision: Precision) -> tuple[Call, dict[str, int]]:
    """The engine that a server would load, behind the predictor's own checks."""
    variant = VariantSpec(
        name=precision,
        engine=engine,
        precision=precision,
        files={file.name: sha256_file(file) for file in files},
    )
    spec = ModelSpec(
        schema_version=SCHEMA_VERSION,
        task="image-classification",
        input=_IMAGE,
        output=ClassificationSpec(labels=tuple(map(str, range(CLASSES)))),
        variants=(variant,),
        golden=GoldenSpec(),
    )
    bundle = Bundle(folder, spec)
    loaded = load_engine(bundle, variant, "cpu")
    predictor = Predictor(bundle, variant, loaded)
    return (lambda batch: predictor.outputs({PIXELS: batch})[LOGITS]), loaded.kernels()


CONTENDERS: dict[str, Build] = {
    "eager fp32": _eager("fp32"),
    "eager bf16": _eager("bf16"),
    "exported fp32": _exported("fp32", "exported"),
    "exported bf16": _exported("bf16", "exported"),
    "compiled bf16": _exported("bf16", "compiled"),
    "ONNX Runtime fp32": _onnxruntime,
    "OpenVINO fp32": _openvino("fp32"),
    "OpenVINO bf16": _openvino("bf16"),
    "OpenVINO int8": _openvino("int8"),
}
"""The first is what the others are compared with."""
