"""Engines on models of a few numbers."""

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from handlers.engines import load_engine
from handlers.spec import GoldenSpec, ImageSpec, ModelSpec, OutputSpec, VariantSpec, sha256_file


@pytest.fixture
def spec(tmp_path) -> ModelSpec:
    """A model whose two logits are the mean of an image and its negative."""
    pixels = ops.parameter([-1, 4, 4, 1], np.uint8)
    mean = ops.reduce_mean(ops.convert(pixels, "f32"), ops.constant([1, 2]), False)
    weights = ops.constant(np.array([[1.0, -1.0]], np.float32))
    ov.save_model(ov.Model([ops.matmul(mean, weights, False, False)], [pixels]), tmp_path / "m.xml", False)
    files = {name: sha256_file(tmp_path / name) for name in ("m.xml", "m.bin")}
    return ModelSpec(
        schema_version=2,
        task="image-classification",
        labels=("bright", "dark"),
        image=ImageSpec(channels=1, resize=4, crop=4),
        output=OutputSpec(),
        variants=(VariantSpec(name="fp32", engine="openvino", precision="fp32", files=files),),
        golden=GoldenSpec(),
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_has_the_threads_of_its_worker(spec, tmp_path, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = load_engine(spec, spec.variants[0], tmp_path, "cpu")
    finally:
        torch.set_num_threads(before)
    compiled = engine._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_openvino_takes_every_batch_size_in_any_order(spec, tmp_path):
    engine = load_engine(spec, spec.variants[0], tmp_path, "cpu")
    kept = []
    for size in (1, 8, 3, 8, 1, 5):
        levels = np.arange(size, dtype=np.uint8) + size
        batch = np.broadcast_to(levels[:, None, None, None], (size, 4, 4, 1)).copy()
        kept.append((levels, engine(batch)))
    for levels, logits in kept:  # an answer does not change when the next batch is run
        assert np.allclose(logits, np.stack([levels, -levels.astype(float)], axis=1))
