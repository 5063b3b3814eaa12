"""The benchmark of the handler's path on tiny inputs; nothing here is timed, and no number is judged."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.render import HANDLER_PAGE, fill_page
from benchmarks.results import read_result
from benchmarks.serving import handler
from benchmarks.serving.handler_material import large_digits, photographs
from marquee.handlers.images import load


def test_every_contender_is_measured_with_every_size(tmp_path, monkeypatch):
    monkeypatch.setattr(handler, "SIZES", ((80, 60), (1100, 1040)))
    (path,) = handler.measure(handler.Handler(parts=("decode",), rounds=2, results=tmp_path))
    result = read_result(path)
    assert result.baseline == "full"
    assert {"full", "scaled", "scaled, torch's resize"} <= set(result.series)
    for metrics in result.series.values():
        assert set(metrics) == {"ms_80x60", "ms_1100x1040"}
        assert all(len(values) == 2 and min(values) > 0 for values in metrics.values())


def test_margin_two_is_what_is_served():
    (data,) = photographs((1100, 1040), 1)
    assert np.array_equal(handler._with_margin(data, handler.SCALED, 2), load(data, handler.SCALED))
    assert not np.array_equal(handler._with_margin(data, handler.SCALED, 1), load(data, handler.SCALED))


def test_other_resizes_show_the_same_picture():
    (data,) = photographs((640, 480), 1)
    served = load(data, handler.FULL).astype(int)
    image = handler.decode(data, handler.FULL)
    for other in (handler._with_gap(image), handler._with_torch(image)):
        assert other.shape == served.shape
        assert np.abs(other - served).mean() < 3


def test_changes_of_answers_are_counted_by_the_image():
    expected = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]])
    found = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    facts = handler._beside(found, expected, np.array([0, 0, 1, 0]))
    assert facts["agreement"] == facts["test_accuracy"] == [0.75]
    assert facts["mean_change"] == pytest.approx([0.075])
    assert facts["largest_change"] == pytest.approx([0.2])
    assert "test_accuracy" not in handler._beside(found, expected, np.zeros(0))


def test_large_digits_are_those_that_are_held_out():
    files, labels = large_digits(40)
    assert (len(files), len(labels)) == (355, 355)
    assert Image.open(io.BytesIO(files[0])).size == (40, 40)


def test_the_page_is_what_the_result_files_give():
    assert fill_page(check=True, page=HANDLER_PAGE, results=HANDLER_PAGE.parent / "results" / "handler") == 0
