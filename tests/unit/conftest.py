"""What several unit tests share."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from tests.unit.tiny import write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def tiny_spec(tmp_path) -> ModelSpec:
    """A model whose two logits are the mean of an image and its negative."""
    pixels = ops.parameter([-1, 4, 4, 1], np.uint8)
    mean = ops.reduce_mean(ops.convert(pixels, "f32"), ops.constant([1, 2]), False)
    weights = ops.constant(np.array([[1.0, -1.0]], np.float32))
    ov.save_model(ov.Model([ops.matmul(mean, weights, False, False)], [pixels]), tmp_path / "m.xml", False)
    files = {name: sha256_file(tmp_path / name) for name in ("m.xml", "m.bin")}
    return ModelSpec(
        schema_version=3,
        task="image-classification",
        input=ImageSpec(channels=1, resize=4, crop=4),
        output=ClassificationSpec(labels=("bright", "dark")),
        variants=(VariantSpec(name="fp32", engine="openvino", precision="fp32", files=files),),
        golden=GoldenSpec(),
    )
