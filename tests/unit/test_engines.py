"""Engines on models of a few numbers."""

import numpy as np
import pytest
import torch

from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.threads import set_threads


@pytest.fixture
def restored_threads():
    """Gives back the threads that a test took."""
    before = torch.get_num_threads()
    yield
    set_threads(before)


@pytest.mark.parametrize(("threads", "alone", "wanted"), [(1, None, 1), (2, None, 2), (1, 2, 2)])
def test_openvino_has_the_threads_of_its_worker(tiny_spec, tmp_path, restored_threads, threads, alone, wanted):
    set_threads(threads, alone)
    engine = load_engine(Bundle(tmp_path, tiny_spec), tiny_spec.variants[0], "cpu")
    together, one = engine._together, engine._alone
    assert together.get_property("INFERENCE_NUM_THREADS") == threads
    assert together.get_property("NUM_STREAMS") == threads
    assert one.get_property("INFERENCE_NUM_THREADS") == wanted
    assert one.get_property("NUM_STREAMS") == 1
    for compiled in (together, one):
        assert compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_openvino_takes_every_batch_size_in_any_order(tiny_spec, tmp_path, restored_threads, threads):
    set_threads(threads)
    engine = load_engine(Bundle(tmp_path, tiny_spec), tiny_spec.variants[0], "cpu")
    kept = []
    for size in (1, 8, 3, 8, 1, 5, 2):
        levels = np.arange(size, dtype=np.uint8) + size
        batch = np.broadcast_to(levels[:, None, None, None], (size, 4, 4, 1)).copy()
        kept.append((levels, engine({"pixels": batch})["logits"]))
    for levels, logits in kept:  # an answer does not change when the next batch is run
        assert np.allclose(logits, np.stack([levels, -levels.astype(float)], axis=1))
