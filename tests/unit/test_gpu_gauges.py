"""What the steps of the GPU pack measure with."""

import pytest
import torch

from benchmarks.gpu.steps.gauges import Pace, Watched, median, operations_of_an_image
from benchmarks.gpu.steps.our_loop import passes_for


def batches(number, images=4):
    for _ in range(number):
        yield torch.zeros(images, 1), torch.zeros(images)


def test_the_first_batches_are_not_measured():
    synchronized = []
    watched = Watched(batches(5), skip=2, count=3, synchronize=lambda: synchronized.append(len(seen)))
    seen = []
    for batch in watched:
        seen.append(batch)
    assert len(seen) == 5
    assert synchronized == [2, 5]
    assert watched._images == 3 * 4
    assert 0 <= watched.pace.waiting <= 1


def test_a_loop_that_ends_early_has_no_pace():
    watched = Watched(batches(5), skip=1, count=4, synchronize=lambda: None)
    next(iter(watched))
    with pytest.raises(RuntimeError, match="ended before"):
        _ = watched.pace


def test_medians():
    assert median([Pace(1, 0.5), Pace(9, 0.1), Pace(2, 0.2)]) == Pace(2, 0.2)


def test_operations_of_an_image():
    # Forwards once; backwards once for the weights, and not for the pixels, which need no gradient.
    layer = lambda: torch.nn.Conv2d(3, 5, 3, padding=1)  # noqa: E731
    assert operations_of_an_image(layer, 8) == 2 * (2 * 3 * 3 * 3 * 5 * 8 * 8)


@pytest.mark.parametrize(("steps", "batch", "images", "passes"), [(4, 8, 30, 2), (3, 8, 30, 1), (3, 64, 30, 3)])
def test_an_epoch_has_enough_steps(steps, batch, images, passes):
    assert passes_for(steps, batch, images) == passes
