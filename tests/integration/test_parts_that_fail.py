"""A part that fails is a row, not the end; and what cannot work ends at once, in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT

PLAIN = (
    "--image.size 32 --model.arch cnn4_w8 --loop.epochs 1 --loop.workers 0 --loop.batch-size 8 "
    "--augment.crop-scale 1 --augment.horizontal-flip 0 --augment.rotation 0 --augment.zoom 0 --augment.color 0"
).split()
ONE_PIXEL = ["--model.arch", "test_resnet"]
"""An image is a single pixel to its last layer."""


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    """Two classes of flat pictures, which are all alike once they are resized."""
    folder = tmp_path_factory.mktemp("flat")
    widths = iter(range(40, 200))
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (next(widths), 40), colour).save(folder / split / label / f"{number}.png")
    return folder


def test_images_without_any_differences_can_be_trained_on(flat, script, tmp_path):
    trained = script("train", "--data", flat, "--out", tmp_path / "run", "--no-report", *PLAIN)
    assert "are all alike to the network" in trained.stderr
    spec = json.loads((tmp_path / "run" / "bundle" / "spec.json").read_text())
    assert spec["output"]["calibration"]["max_distance"] is None


@pytest.mark.parametrize("options", [("--loop.batch-size", "1"), ("--loop.batch-size", "8", "--loop.accumulate", "8")])
def test_batch_norm_with_one_image_a_part_is_told_before_the_first_step(options, flat, script, tmp_path):
    command = ("train", "--data", flat, "--out", tmp_path / "run", "--no-report", *PLAIN, *ONE_PIXEL)
    refused = script(*command, *options, check=False)
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("error: batch norm needs more than one value of each channel")
    assert "--loop.batch-size" in last
    assert not (tmp_path / "run" / "checkpoints").exists()
    # Nothing is in the way of the corrected command.
    script(*command)


def train_in_shell(prepare: str, data: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Trains with two loader processes, in a shell that has been prepared."""
    command = " ".join(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "--data", str(data), "--out", str(out), *PLAIN, *options]
    )
    shell = ["bash", "-c", f"{prepare}; exec {command} --loop.workers 2"]
    return subprocess.run(shell, capture_output=True, text=True, timeout=300, check=False)


def test_too_few_open_files_end_in_one_line(flat, tmp_path):
    ended = train_in_shell("ulimit -n 24", flat, tmp_path / "run")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    line = "too many open files for the loader's processes; raise ulimit -n, or lower --loop.workers (0: no processes)"
    assert ended.stderr.splitlines()[-1] == f"error: {line}"


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return unshare is not None and subprocess.run(tried, capture_output=True, check=False).returncode == 0


def test_a_full_shared_memory_ends_in_one_line(flat, tmp_path):
    if not can_mount():
        # Without the right to mount a small /dev/shm, what PyTorch says there is read from its own source.
        from marquee.training.core.guarded_loader import _death

        assert "no shared memory left" in str(_death("DataLoader worker (pid 12) is killed by signal: Bus error. "))
        return
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--data", str(flat), "--out", str(tmp_path / "run")]
    line = " ".join([*command, *PLAIN, "--image.size", "128", "--loop.workers", "2", "--loop.cache", "none"])
    mount = "mount -t tmpfs -o size=100k tmpfs /dev/shm"
    shell = ["unshare", "-m", "bash", "-c", f"{mount} && exec {line}"]
    ended = subprocess.run(shell, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(
        "error: the loader's processes have no shared memory left; make /dev/shm"
    )


def test_a_fine_tuning_that_diverges_loses_no_other_variant(run, script, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    options = "--prune.keep 0.5 --prune.epochs 1 --prune.lr 1e30 --rounds 2 --seconds 0.05".split()
    optimized = script("optimize", tmp_path / "run", "--variants", "openvino-fp32", *options, "--json")
    result = json.loads(optimized.stdout)
    assert set(result["variants"]) == {"fp32", "openvino-fp32"}
    assert "diverged" in result["left_out"]["pruned"]
    assert result["reason"].startswith(result["chosen"])
    assert result["judged_on"] == "355 test images"


def test_a_candidate_that_cannot_be_trained_is_a_row(flat, script, tmp_path):
    ladder = tmp_path / "ladder.yaml"
    ladder.write_text(
        "- {name: single, config: {loop: {accumulate: 8}}}\n"
        "- {name: wild, config: {optimizer: {lr: 1.0e+30, min_lr: 0.0}}}\n"
        "- {name: small, config: {}}\n"
    )
    command = (flat, "--out", tmp_path / "out", "--candidates", ladder, "--folds", 2, "--all", *PLAIN, *ONE_PIXEL)
    for _ in range(2):  # and again when it is run again
        selected = script("select_model", *command, "--json")
        rows = {row["candidate"]: row for row in json.loads(selected.stdout)["candidates"]}
        assert "batch norm needs more than one value" in rows["single"]["reason"]
        assert rows["wild"]["verdict"] == "skipped"
        assert rows["small"]["verdict"] == "chosen"
        assert (tmp_path / "out" / "selection.md").is_file()


def test_what_is_measured_on_which_images_is_said(run, script, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shown = script("optimize", tmp_path / "run", "--variants", "openvino-int8", "--rounds", 3, "--seconds", 0.05)
    assert "accuracy and agreement: on 355 test images" in shown.stdout
    assert "chosen here: " in shown.stdout
    assert "validation items" in shown.stderr  # what int8 was controlled on
