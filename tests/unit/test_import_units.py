"""A mean and a standard deviation that are in other units than --input-range says."""

from pathlib import Path

import pytest

from marquee.training.importing.config import ImportConfig


def config(**options) -> ImportConfig:
    return ImportConfig(model=Path("m"), labels=Path("l"), images=Path("i"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
            "add --input-range 255, or, which is the same, give --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
        ),
        ({"mean": (127.5,), "std": (127.5,)}, "add --input-range 255.* --mean 0.5 --std 0.5"),
        ({"mean": (123.675, 116.28, 103.53)}, "add --input-range 255.*only the mean .* --mean 0.485 0.456 0.406"),
        ({"mean": (123.675,), "std": (0.229,)}, "one of them .*--mean 0.485 --std 0.229"),
        ({"mean": (0.485,), "std": (58.395,)}, "one of them .*--mean 0.485 --std 0.229"),
        ({"std": (58.395,)}, "add --input-range 255"),
        ({"mean": (0.5,), "std": (0.5,), "input_range": 255}, "leave --input-range out.*--mean 127.5 --std 127.5"),
        ({"mean": (300.0,), "input_range": 255}, "above 255"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"channel_order": "bgr", "channels": 1}, "bgr needs 3 channels"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": (0.0,), "std": (1.0,)},
        {"mean": (1.0,), "std": (2.0,)},
        {"mean": (103.939, 116.779, 123.68), "input_range": 255, "channel_order": "bgr"},
        {"mean": (127.5,), "std": (127.5,), "input_range": 255},
        {"mean": (0.0,), "std": (255.0,), "input_range": 255},
    ],
)
def test_what_is_meant(options):
    assert config(**options).mean == options["mean"]
