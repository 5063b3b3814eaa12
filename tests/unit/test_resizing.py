"""Images that grow while a network trains."""

import pytest
import torch

from marquee.training.core.checkpoint import TrainingState
from marquee.training.core.loop import out_of_patience
from marquee.training.tasks.image_classification.config import ImageLoopConfig
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing


class TestSide:
    @pytest.mark.parametrize(
        ("step", "side"),
        # Half of 224 for 50 steps; in the middle of the growth three quarters; whole from step 80 on.
        [(0, 112), (49, 112), (50, 112), (65, 168), (79, 224), (80, 224), (99, 224)],
    )
    def test_by_hand(self, step, side):
        assert ProgressiveResizing(0.5, 224, 100).side(step) == side

    @pytest.mark.parametrize("size", [8, 28, 33, 224, 600])
    def test_grows_in_few_sizes_to_the_full_one(self, size):
        resizing = ProgressiveResizing(0.5, size, 1000)
        sides = [resizing.side(step) for step in range(1000)]
        assert sides == sorted(sides)
        assert set(sides[800:]) == {size}
        assert abs(sides[0] - size / 2) <= size / 16
        assert len(set(sides)) <= 7
        assert set(sides) - {size} <= set(resizing.sides()) < set(range(size))

    def test_of_one_nothing_is_resized(self):
        resizing = ProgressiveResizing(1.0, 30, 10)
        pixels = torch.zeros(2, 30, 30, 3, dtype=torch.uint8)
        assert all(resizing(pixels, step) is pixels for step in range(10))
        assert resizing.sides() == []


class TestPixels:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_are_means_of_what_they_cover(self, channels):
        pixels = torch.zeros(2, 32, 32, channels, dtype=torch.uint8)
        pixels[1, :, 16:] = 200
        small = ProgressiveResizing(0.5, 32, 10)(pixels, 0)
        assert small.dtype == torch.uint8
        assert small.shape == (2, 16, 16, channels)
        assert not small[0].any()
        assert small[1, :, :7].max() == 0
        assert small[1, :, 9:].min() == 200

    def test_lose_detail_without_moire(self):
        """A filter that skipped pixels would turn a fine chequerboard black or white."""
        board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255
        pixels = board.to(torch.uint8)[None, :, :, None]
        small = ProgressiveResizing(0.5, 32, 10)(pixels, 0).float()
        assert small[:, 2:-2, 2:-2].min() > 100
        assert small[:, 2:-2, 2:-2].max() < 155


class TestPatience:
    def test_counts_from_the_first_whole_epoch(self):
        grown = ImageLoopConfig(epochs=20, patience=3, progressive_resizing=0.5)
        assert grown.first_full_epoch == 16
        assert not out_of_patience(grown, TrainingState(epoch=18, best_epoch=2))
        assert out_of_patience(grown, TrainingState(epoch=19, best_epoch=2))
        assert not out_of_patience(grown, TrainingState(epoch=19, best_epoch=17))

    def test_counts_from_the_best_epoch_otherwise(self):
        whole = ImageLoopConfig(epochs=20, patience=3)
        assert out_of_patience(whole, TrainingState(epoch=5, best_epoch=2))
        assert not out_of_patience(whole, TrainingState(epoch=4, best_epoch=2))
        assert not out_of_patience(ImageLoopConfig(epochs=20, patience=0), TrainingState(epoch=19, best_epoch=0))
