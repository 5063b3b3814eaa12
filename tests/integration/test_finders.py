"""scripts/find_lr.py and scripts/find_batch_size.py on the digits."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marquee.training.core.config import OptimizerConfig
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.config import (
    AugmentConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    ModelConfig,
)
from marquee.training.tools.lr_finder import find_learning_rate, judge
from marquee.training.tools.rate_range import RateRange
from tests.conftest import ROOT, SETTINGS
from tests.forked import Forked

pytestmark = pytest.mark.slow  # what they share takes that long to make

QUIET = Progress(quiet=True)
TINY = ImageRunConfig(
    image=ImageConfig(size=32),
    model=ModelConfig(arch="cnn4_w8"),
    loop=ImageLoopConfig(workers=0),
    augment=AugmentConfig(horizontal_flip=0, crop_scale=0.9),
)


def test_training_at_the_suggested_rate_learns(digits, script, tmp_path):
    place = tmp_path / "work"
    place.mkdir()
    files = ["--out", place / "lr.json", "--plot", place / "lr.svg"]
    small = [*SETTINGS, "--image.size", 16]
    result = script("find_lr", "--data", digits, *small, *files, "--json", cwd=place)
    curve = json.loads(result.stdout)
    assert curve == json.loads((place / "lr.json").read_text())
    assert {path.name for path in place.iterdir()} == {"lr.json", "lr.svg"}
    assert "<svg" in (place / "lr.svg").read_text()
    assert curve["rates"][0] == pytest.approx(1e-6)
    assert 1e-6 < curve["suggestion"] < 1
    assert 1e-6 < curve["tenth_of_lowest"] < 1
    rate = ["--optimizer.lr", curve["suggestion"], "--loop.epochs", 3]
    trained = json.loads(
        script("train", "--no-report", "--data", digits, "--out", tmp_path / "run", *small, *rate, "--json").stdout
    )
    assert trained["accuracy"] > 0.6  # chance is 0.1


def test_a_diverging_range_is_cut_off(digits):
    sgd = OptimizerConfig(name="sgd", clip_norm=0)
    config = replace(TINY, optimizer=sgd, model=ModelConfig(arch="test_resnet"))
    curve = find_learning_rate(config, digits, RateRange(start=1e-3, stop=1e8, steps=60), QUIET)
    assert curve.diverged
    assert 5 < len(curve.rates) < 60
    assert np.isfinite(curve.losses).all()
    assert curve.suggestion is not None
    assert curve.suggestion < curve.rates[int(np.argmin(curve.smoothed))]


def test_no_descent_is_said(few, script):
    options = ["--from", "1e-12", "--to", "1e-11", "--steps", 40]
    result = script("find_lr", "--data", few, *SETTINGS, *options)
    assert "no clear descent" in result.stdout
    assert "--optimizer.lr" not in result.stdout


def test_the_same_seed_gives_the_same_curve(few):
    rates = RateRange(start=1e-4, stop=1e-1, steps=20)
    assert find_learning_rate(TINY, few, rates, QUIET) == find_learning_rate(TINY, few, rates, QUIET)


def test_the_rule_on_known_curves():
    rates = np.geomspace(1e-6, 1, 100)
    decades = np.log10(rates)
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    falling = 2.3 - 1.5 / (1 + np.exp(-8 * (decades + 3))) + np.where(decades > -1, 3 * (decades + 1), 0)
    curve = judge(list(rates), list(falling + noise), diverged=False)
    assert curve.suggestion == pytest.approx(1e-3, rel=1)  # within a factor of two of where it falls fastest
    assert curve.note == ""
    assert "still falling" in judge(list(rates), list(2.3 - 0.2 * (decades + 6) + noise), diverged=False).note
    for seed in range(50):
        flat = 2.3 + np.random.default_rng(seed).normal(0, 0.05, 100)
        assert judge(list(rates), list(flat), diverged=False).suggestion is None
    assert "lower --from" in judge([1.0, 2.0], [2.3, 900.0], diverged=True).note


def batch_sizes(script, few: Path, *options: object) -> dict:
    result = script("find_batch_size", "--data", few, *SETTINGS, "--image.size", 64, "--json", *options)
    return json.loads(result.stdout)


def test_the_predicted_batch_respects_the_limit_and_fits(few, script):
    free = batch_sizes(script, few, "--from", 8)
    assert free["largest"] == 128  # all 242 training images are fewer than 256
    assert [item["batch_size"] for item in free["measured"]][:2] == [8, 32]
    assert all(item["images_per_second"] > 0 for item in free["measured"])
    limit = free["base_bytes"] + 96 * free["bytes_per_image"]
    tight = batch_sizes(script, few, "--from", 8, "--memory-bytes", limit)
    assert tight["largest"] == 64
    assert tight["predicted"]
    really = batch_sizes(script, few, "--from", 64, "--memory-bytes", limit)
    assert really["largest"] == 64
    assert really["measured"][0]["peak_bytes"] <= limit


def test_a_limit_below_everything_is_an_error(few, script):
    result = script(
        "find_batch_size", "--data", few, *SETTINGS, "--memory-bytes", 50_000_000, "--from", 64, check=False
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: not even a batch of 64 fits in 48 MiB")


@pytest.mark.parametrize("name", ["find_lr", "find_batch_size"])
def test_ctrl_c_ends_with_one_line(few, name):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--data", str(few), *SETTINGS]
    if name == "find_lr":
        command += ["--steps", "100000", "--loop.workers", "1"]
    process = Forked(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "may be used" in line or "100000 steps" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 1
    assert rest.strip().splitlines() == ["interrupted"], rest


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("find_lr", ["--from", "1", "--to", "0.1"]),
        ("find_batch_size", ["--from", "3"]),
    ],
)
def test_bad_arguments_are_usage_errors(script, tmp_path, name, options):
    result = script(name, "--data", tmp_path, *options, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_plot_that_cannot_be_written_is_refused_first(script, tmp_path):
    result = script("find_lr", "--data", tmp_path / "none", "--plot", "curve.bmp", check=False)
    assert result.returncode == 1
    assert "curve.bmp: expected a name that ends with .svg" in result.stderr
