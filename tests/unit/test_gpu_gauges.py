"""What the steps of the GPU pack measure with."""

import math
import shutil
from collections import namedtuple

import pytest
import torch

from benchmarks.gpu.compilers import why_not_ahead_of_time, why_not_compiled
from benchmarks.gpu.differences import are_equal, largest_difference, largest_gap
from benchmarks.gpu.machine import Sampler
from benchmarks.gpu.steps.gauges import Pace, Watched, median, operations_of_an_image, workers_that_fit
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


class TestDifferences:
    @pytest.mark.parametrize("place", [0, 1, 2])
    @pytest.mark.parametrize(("value", "told"), [(math.nan, math.isnan), (math.inf, math.isinf)])
    def test_what_is_not_finite_is_told_wherever_it_is(self, place, value, told):
        first = {name: torch.zeros(3) for name in "abc"}
        second = {name: torch.zeros(3) for name in "abc"}
        second["abc"[place]][1] = value
        assert told(largest_difference(first, second))
        assert not are_equal(first, second)
        assert told(largest_gap([0.0] * 3, [value if number == place else 0.0 for number in range(3)]))

    def test_nan_on_both_sides_is_no_agreement(self):
        broken = {"a": torch.tensor([0.0, math.nan])}
        assert math.isnan(largest_difference(broken, broken))
        assert not are_equal(broken, {"a": broken["a"].clone()})

    @pytest.mark.parametrize("other", [{"a": torch.zeros(2), "b": torch.zeros(1)}, {}, {"a": torch.zeros(1, 2)}])
    def test_other_names_or_shapes_cannot_be_compared(self, other):
        weights = {"a": torch.zeros(2)}
        assert not are_equal(weights, other)
        for first, second in ((weights, other), (other, weights)):
            with pytest.raises(ValueError, match="cannot be compared: [ab]"):
                largest_difference(first, second)

    def test_largest(self):
        first, second = (
            {"a": torch.tensor([1, 2]), "b": torch.zeros(1)},
            {"a": torch.tensor([1, 5]), "b": torch.ones(1)},
        )
        assert largest_difference(first, second) == 3
        assert largest_gap([1.0, 2.0], [1.5, 2.25]) == 0.5
        assert are_equal(first, dict(first))
        assert not are_equal(first, second)


def test_utilisation_is_that_of_the_measured_windows():
    sampler = Sampler()
    assert sampler.utilisation([(0.0, 9.0)]) is None
    sampler._samples = [(1.0, 0.0), (2.0, 80.0), (3.0, 90.0), (4.0, 0.0), (5.0, 100.0)]
    assert sampler.utilisation([(1.5, 3.5), (4.5, 9.0)]) == 90
    assert sampler.utilisation([(5.5, 6.0)]) is None


def test_the_window_of_a_pace():
    watched = Watched(batches(5), skip=2, count=3, synchronize=lambda: None)
    assert len(list(watched)) == 5
    begin, end = watched.pace.window
    assert begin < end
    assert watched.pace.images_per_second == pytest.approx(12 / (end - begin))


def test_few_loader_processes_where_shared_memory_is_small(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 << 20, 0, 64 << 20))
    assert workers_that_fit(16, batch=256, size=224) == 0  # 77 MB each
    assert workers_that_fit(16, batch=64, size=224) == 3
    assert workers_that_fit(2, batch=64, size=224) == 2


class TestCompilers:
    @pytest.fixture(autouse=True)
    def plain(self, monkeypatch):
        for name in ("CC", "CXX"):
            monkeypatch.delenv(name, raising=False)

    def test_without_a_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert why_not_compiled("cuda") in ("needs Triton", "needs a C compiler: gcc, clang, or that of $CC")
        assert why_not_compiled("cpu").startswith("needs a C++ compiler")
        assert why_not_ahead_of_time("cpu").startswith("needs a C++ compiler")

    def test_the_one_that_is_named_must_be_there(self, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler")
        assert why_not_compiled("cpu").startswith("needs a C++ compiler")

    def test_without_header_files(self, monkeypatch, tmp_path):
        monkeypatch.setattr("benchmarks.gpu.compilers.sysconfig.get_paths", lambda: {"include": str(tmp_path)})
        monkeypatch.setattr("benchmarks.gpu.compilers.shutil.which", lambda name: name)
        assert why_not_compiled("cpu") == f"needs the header files of Python; there is no {tmp_path / 'Python.h'}"
        (tmp_path / "Python.h").touch()
        assert why_not_compiled("cpu") == ""

    def test_without_cuda(self, monkeypatch, tmp_path):
        monkeypatch.setattr("benchmarks.gpu.compilers.why_not_compiled", lambda _: "")
        monkeypatch.setattr("benchmarks.gpu.compilers.shutil.which", lambda name: name)
        monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path))
        assert why_not_ahead_of_time("cuda").startswith("needs CUDA's header files")
        assert why_not_ahead_of_time("cpu") == ""
