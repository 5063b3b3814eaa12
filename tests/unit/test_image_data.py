"""Images that clients send as JSON numbers: what white is."""

import json

import numpy as np
import pytest

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import parse
from marquee.handlers.inputs.image.reader import ImageReader
from tests.unit.test_payload import SPEC, pixels


def shown(document) -> list | InputError:
    """The pixels in the corners of an image that is sent so, or the error."""
    (item,) = pixels(parse({"body": json.dumps(document).encode()}, ImageReader(SPEC)))
    return item if isinstance(item, InputError) else [int(item[0, 0, 0]), int(item[-1, -1, 0])]


def square(top, bottom) -> list:
    return [[top] * 8] * 4 + [[bottom] * 8] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (square(0, 255), [0, 255]),
        (square(0, 2), [0, 2]),
        (square(0.0, 1.0), [0, 255]),
        (square(0, 1.0), [0, 255]),
        (square(0.5, 1), [128, 255]),
        (square(0, 0), [0, 0]),  # black whatever white is
        (square([0, 0, 0], [9, 9, 9]), [0, 9]),
    ],
)
def test_what_is_clear_without_a_word(values, expected):
    assert shown({"image_data": values}) == expected


@pytest.mark.parametrize("values", [square(1, 1), square(0, 1), square([1, 1, 1], [0, 1, 0]), square([0], [1]), [[1]]])
def test_only_0_and_1_is_refused_with_the_way_out(values):
    """JavaScript writes 1.0 as 1: white was answered as nearly black."""
    for document in ({"image_data": values}, {"instances": [{"image_data": values}]}):
        error = shown(document)
        assert (error.code, error.status) == ("bad_image_data", 400)
        assert '"range": 1 or "range": 255' in error.message


@pytest.mark.parametrize(
    ("values", "white", "expected"),
    [
        (square(0, 1), 1, [0, 255]),
        (square(0, 1), 255, [0, 1]),
        (square(1, 1), 1.0, [255, 255]),
        (square(0.5, 1), 1, [128, 255]),
        (square(0, 128), 255, [0, 128]),
        (square(0.0, 254.6), 255, [0, 255]),  # numpy's floats
        (square([1, 1, 1], [0, 0, 0]), 1, [255, 0]),
    ],
)
def test_the_client_says_what_white_is(values, white, expected):
    assert shown({"image_data": values, "range": white}) == expected
    assert shown({"instances": [{"range": white, "image_data": values}]}) == expected


@pytest.mark.parametrize(
    ("values", "white", "message"),
    [
        (square(0, 2), 1, "0..1"),
        (square(0, 256), 255, "0..255"),
        (square(-0.1, 1), 1, "0..1"),
        (square(0, 1), 100, "expected 1 or 255, got 100"),
        (square(0, 1), True, "expected 1 or 255, got true"),
        (square(0, 1), "1", 'expected 1 or 255, got "1"'),
        (square(0, 1), [0, 1], "expected 1 or 255, got a list"),
        (square(0, 1), "x" * 100_000, "expected 1 or 255"),
    ],
)
def test_a_range_that_does_not_fit(values, white, message):
    error = shown({"image_data": values, "range": white})
    assert error.code == "bad_image_data"
    assert message in error.message
    assert len(error.message) < 200


def test_numbers_that_are_none():
    for values in ([[float("nan"), 0.5]], [[float("inf"), 1]]):
        for document in (
            {"image_data": values},
            {"image_data": values, "range": 1},
            {"image_data": values, "range": 255},
        ):
            (item,) = pixels(parse({"body": document}, ImageReader(SPEC)))
            assert item.code == "bad_image_data"
    assert np.array_equal(shown({"image_data": square(3, 4)}), [3, 4])
