"""Every kind of variant in the documentation is built, served and proven, or says what this machine lacks for it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import register_model
from torch import nn

from marquee.handlers.core.bundle import Bundle, read_spec, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.host import this_host
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.config import OptimizerConfig
from marquee.training.core.export import export_program
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.optimize.config import KINDS, OptimizeConfig, PruningConfig
from marquee.training.optimize.optimize import optimize
from marquee.training.tasks.image_classification.architectures import ResNet9
from marquee.training.tasks.image_classification.config import (
    ClassificationExportConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    ModelConfig,
)
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler"),
]


def documented() -> set[str]:
    """The names in the first column of the table of variants."""
    page = (ROOT / "docs" / "optimizing.md").read_text("utf-8")
    table = page.partition("| `--variants` |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])}


OF_IMAGES = tuple(kind for kind in KINDS if "fp64" not in kind)
"""The networks of images compute in fp32; tests/integration/test_optimize_table.py has the kinds of tables."""


def missing_here() -> set[str]:
    """Kinds that cannot run on this machine's CPU."""
    low = (
        set() if {"avx512_bf16", "amx_bf16"} & set(this_host().isa) else {kind for kind in OF_IMAGES if "bf16" in kind}
    )
    return low | {"fp16"}


class OneConvolution(ResNet9):
    """Each layer that is compiled costs seconds."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.stem(images)


@register_model
def one_convolution(pretrained: bool = False, num_classes: int = 1000, **_) -> OneConvolution:
    network = OneConvolution(8, num_classes=num_classes)
    network.num_features = 8
    network.stage1 = network.stage2 = network.stage3 = nn.Identity()
    network.head = nn.Linear(8, num_classes)
    return network


@pytest.fixture(scope="module")
def optimized(tmp_path_factory) -> Path:
    """A run of a second on plain pictures, dark and bright, with every variant."""
    folder = tmp_path_factory.mktemp("compiled")
    generator = np.random.default_rng(0)
    for number in range(60):
        label = ("dark", "bright")[number % 2]
        path = folder / "data" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = 160 * (number % 2)
        Image.fromarray(generator.integers(level, level + 96, (32, 32, 3)).astype(np.uint8)).save(path)
    config = ImageRunConfig(
        image=ImageConfig(size=32),
        model=ModelConfig(arch="one_convolution", pretrained="none"),
        optimizer=OptimizerConfig(lr=4e-3),
        loop=ImageLoopConfig(epochs=1, batch_size=16, workers=0, device="cpu", precision="fp32"),
        export=ClassificationExportConfig(unfamiliar=0),
    )
    train(config, folder / "data", folder / "run", report=False)
    # With the threads of this process: then what is compiled here is found in the compiler's cache below.
    threads = torch.get_num_threads()
    fast = OptimizeConfig(variants=OF_IMAGES, max_accuracy_drop=0.99, rounds=1, seconds=0.01, threads=threads)
    found = optimize(folder / "run", fast, PruningConfig(), "cpu", Progress(quiet=True))
    assert set(found.left_out) == missing_here(), found.left_out
    return folder / "run"


def test_the_documentation_has_the_kinds_that_there_are():
    assert documented() == {"fp32", *OF_IMAGES}


@pytest.mark.parametrize("kind", ["fp32", *OF_IMAGES])
def test_it_is_built_served_and_proven(optimized, kind):
    bundle = optimized / "bundle"
    names = [variant.name for variant in read_spec(bundle).variants]
    if kind in missing_here():
        assert kind not in names  # and the fixture has checked the reason
        return
    predictor = Predictor.load(bundle, variant=kind, verify=verify_golden)
    assert predictor.variant.name == kind
    assert predictor.engine.kernels()[predictor.variant.precision] > 0


class Plain(nn.Module):
    """The mean of the pixels, and its negative."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = pixels.float().mean((1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


def test_the_compiled_program_answers_any_number_of_items(tmp_path):
    image = ImageSpec(channels=1, resize=4, crop=4)
    export_program(Plain().eval(), image, tmp_path / "model.pt2")
    files = {"model.pt2": sha256_file(tmp_path / "model.pt2")}
    variants = tuple(
        VariantSpec(name=engine, engine=engine, precision="fp32", files=files) for engine in ("exported", "compiled")
    )
    spec = ModelSpec(
        schema_version=3,
        task="image-classification",
        input=image,
        output=ClassificationSpec(labels=("bright", "dark")),
        variants=variants,
        golden=GoldenSpec(),
    )
    plain, compiled = (load_engine(Bundle(tmp_path, spec), variant, "cpu") for variant in variants)
    assert isinstance(compiled._call, torch._dynamo.OptimizedModule)
    for size in (1, 3, 8, 2):
        pixels = np.random.default_rng(size).integers(0, 256, (size, 4, 4, 1)).astype(np.uint8)
        found, expected = (engine({"pixels": pixels})["logits"] for engine in (compiled, plain))
        assert np.allclose(found, expected, atol=1e-4)
