"""What every contender serves: ResNet-18 at 224 pixels with 1,000 labels, as a bundle and as torchvision has it.

Its weights are random: they do not decide the speed. Equal seeds give equal files.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from torchvision.models import resnet18

from benchmarks.photographs import GRAIN, SIZE, write_photographs
from benchmarks.serving.peers.place import WEIGHTS
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.bundle import sha256_file as digest
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import SCHEMA_VERSION, GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.spec import PIXELS, ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.export import export_program, trace_program
from marquee.training.core.files import atomic_folder
from marquee.training.core.golden_writer import write_answers, write_golden
from marquee.training.optimize.datasets import Samples
from marquee.training.optimize.openvino_ir import convert, quantize, relative, save
from marquee.training.tasks.image_classification.data.manifest import Record
from marquee.training.tasks.image_classification.models import Classifier
from marquee.training.tasks.image_classification.task import ImageClassification

CLASSES = 1000
IMAGE = ImageSpec(
    channels=3, resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), decode="scaled"
)
"""As an export writes it: large JPEG files are decoded scaled (handlers/inputs/image/decode.py)."""
FP32, INT8 = "fp32", "openvino-int8"
_CALIBRATION = 64
_GOLDEN = 8


def make_material(folder: Path) -> None:
    """Writes ``folder/resnet18.pth`` and ``folder/bundle``; once.

    Raises:
        TrainingError: OpenVINO or NNCF is not installed.
    """
    if (folder / "bundle").is_dir():
        return
    with atomic_folder(folder) as staging, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_weights(staging)
        photographs = write_photographs(staging / "calibration", SIZE, _CALIBRATION, GRAIN, seed=1)
        bundle = staging / "bundle"
        bundle.mkdir()
        _write_bundle(_classifier(staging / WEIGHTS), photographs, bundle)


def write_weights(folder: Path) -> None:
    """Writes ``folder/resnet18.pth`` alone, which is all that eager peers need; once."""
    if not (folder / WEIGHTS).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        torch.save(resnet18(num_classes=CLASSES).state_dict(), folder / WEIGHTS)


def _classifier(weights: Path) -> Classifier:
    """The network in timm's form with the very weights that torchvision's is given."""
    backbone = timm.create_model("resnet18", num_classes=CLASSES)
    backbone.load_state_dict(torch.load(weights, weights_only=True))
    return Classifier(backbone, IMAGE.mean, IMAGE.std).eval()


def _write_bundle(classifier: Classifier, photographs: list[Path], folder: Path) -> None:
    program = folder / "model.pt2"
    export_program(classifier, IMAGE, program)
    pixels = np.stack([load(path.read_bytes(), IMAGE) for path in photographs])
    calibration = Samples(inputs={PIXELS: pixels}, targets=None)
    quantized, _ = quantize(convert(trace_program(classifier, IMAGE), IMAGE), calibration, None, 0)
    files = save(quantized, folder / "variants" / INT8 / "model.xml")
    variants = (
        VariantSpec(name=FP32, engine="exported", precision="fp32", files={program.name: digest(program)}),
        VariantSpec(
            name=INT8,
            engine="openvino",
            precision="int8",
            files=dict(zip(relative(files, folder), map(digest, files), strict=True)),
            tolerance=0.02,
            expected=f"golden/expected-{INT8}.json",
            device="cpu",
        ),
    )
    spec = ModelSpec(
        schema_version=SCHEMA_VERSION,
        task=ImageClassification.name,
        input=IMAGE,
        output=ClassificationSpec(labels=tuple(map(str, range(CLASSES)))),
        variants=variants,
        golden=GoldenSpec(),
        provenance={"made_by": "benchmarks.serving", "weights": "random"},
    )
    bundle = Bundle(folder, spec)
    bundle.with_spec(replace(spec, golden=_write_golden(bundle, photographs[:_GOLDEN], pixels[:_GOLDEN]))).write()


def _write_golden(bundle: Bundle, photographs: list[Path], pixels: np.ndarray) -> GoldenSpec:
    records = [Record(str(path), "0", "test", digest(path)) for path in photographs]
    answers = {}
    for variant in bundle.spec.variants:
        predictor = Predictor(bundle, variant, load_engine(bundle, variant, "cpu"))
        answers[variant.name] = predictor.predict_arrays({PIXELS: pixels})
    task = ImageClassification()
    golden = write_golden(bundle, task, records, answers[FP32])
    names = [name for name in golden.files if name.endswith(".jpg")]
    entries = (
        {"file": name, **task.truth(record), **answer.golden()}
        for name, record, answer in zip(names, records, answers[INT8], strict=True)
    )
    return GoldenSpec(files={**golden.files, **write_answers(bundle, bundle.spec.variants[1], entries)})
