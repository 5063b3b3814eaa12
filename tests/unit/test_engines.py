"""Engines on models of a few numbers."""

import numpy as np
import pytest
import torch

from handlers.engines import load_engine


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_has_the_threads_of_its_worker(tiny_spec, tmp_path, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = load_engine(tiny_spec, tiny_spec.variants[0], tmp_path, "cpu")
    finally:
        torch.set_num_threads(before)
    compiled = engine._compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_openvino_takes_every_batch_size_in_any_order(tiny_spec, tmp_path):
    engine = load_engine(tiny_spec, tiny_spec.variants[0], tmp_path, "cpu")
    kept = []
    for size in (1, 8, 3, 8, 1, 5):
        levels = np.arange(size, dtype=np.uint8) + size
        batch = np.broadcast_to(levels[:, None, None, None], (size, 4, 4, 1)).copy()
        kept.append((levels, engine(batch)))
    for levels, logits in kept:  # an answer does not change when the next batch is run
        assert np.allclose(logits, np.stack([levels, -levels.astype(float)], axis=1))
