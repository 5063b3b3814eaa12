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
from marquee.handlers.engines import load_engine
from marquee.handlers.images import load
from marquee.handlers.predictor import Predictor
from marquee.handlers.spec import SCHEMA_VERSION, SPEC_FILE, GoldenSpec, ImageSpec, ModelSpec, OutputSpec, VariantSpec
from marquee.handlers.spec import sha256_file as digest
from marquee.training.data.manifest import Record
from marquee.training.export import export_program, trace_program
from marquee.training.files import atomic_folder
from marquee.training.golden import write_answers, write_golden
from marquee.training.models import Classifier
from marquee.training.optimize.material import Images
from marquee.training.optimize.openvino_ir import convert, quantize, relative, save

CLASSES = 1000
IMAGE = ImageSpec(
    channels=3, resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), decode="scaled"
)
"""As an export writes it: large JPEG files are decoded scaled (handlers/images.py)."""
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


def _write_bundle(classifier: Classifier, photographs: list[Path], bundle: Path) -> None:
    program = bundle / "model.pt2"
    export_program(classifier, IMAGE, program)
    pixels = np.stack([load(path.read_bytes(), IMAGE) for path in photographs])
    quantized, _ = quantize(
        convert(trace_program(classifier, IMAGE), IMAGE), Images(pixels=pixels, targets=None), None, 0
    )
    files = save(quantized, bundle / "variants" / INT8 / "model.xml")
    variants = (
        VariantSpec(name=FP32, engine="exported", precision="fp32", files={program.name: digest(program)}),
        VariantSpec(
            name=INT8,
            engine="openvino",
            precision="int8",
            files=dict(zip(relative(files, bundle), map(digest, files), strict=True)),
            tolerance=0.02,
            expected=f"golden/expected-{INT8}.json",
            device="cpu",
        ),
    )
    spec = ModelSpec(
        schema_version=SCHEMA_VERSION,
        task="image-classification",
        labels=tuple(map(str, range(CLASSES))),
        image=IMAGE,
        output=OutputSpec(),
        variants=variants,
        golden=GoldenSpec(),
        provenance={"made_by": "benchmarks.serving", "weights": "random"},
    )
    spec = replace(spec, golden=_write_golden(spec, photographs[:_GOLDEN], pixels[:_GOLDEN], bundle))
    (bundle / SPEC_FILE).write_text(spec.to_json(), "utf-8")


def _write_golden(spec: ModelSpec, photographs: list[Path], pixels: np.ndarray, bundle: Path) -> GoldenSpec:
    records = [Record(str(path), "0", "test", digest(path)) for path in photographs]
    answers = {}
    for variant in spec.variants:
        predictor = Predictor(spec, variant, load_engine(spec, variant, bundle, "cpu"), "", bundle)
        answers[variant.name] = predictor.predict_arrays(list(pixels))
    golden = write_golden(bundle, records, answers[FP32])
    inputs = [(name, "0") for name in golden.files if name.endswith(".jpg")]
    expected = spec.variants[1].expected
    written = write_answers(bundle / expected, inputs, [(one.probabilities, None) for one in answers[INT8]])
    return GoldenSpec(files={**golden.files, expected: written})
