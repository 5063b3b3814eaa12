"""Folders that training writes: one command at a time, nothing of killed ones, and data that was moved."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marquee.locks import LOCK_FILE
from marquee.training.core.exclusive import clear_up
from tests.conftest import QUICK, ROOT
from tests.forked import Forked

SMALL = [*QUICK, "--image.size", "16", "--loop.epochs", "1"]
SLOW = [*SMALL, "--loop.epochs", "2000"]


def begin(data: Path, out: Path) -> "subprocess.Popen[str]":
    """A training that has written its first checkpoint and goes on."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--data", str(data), "--out", str(out), *SLOW]
    process = Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out / "checkpoints" / "last").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def killed(few, tmp_path_factory) -> Path:
    """A run that was killed after its first epoch; ``data`` beside it is what it was begun with."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(few, folder / "data")
    kill(begin(folder / "data", folder / "run"))
    return folder


@pytest.fixture
def copy(killed, tmp_path) -> Path:
    """A copy of :func:`killed`, whose manifest names the copy's data."""
    shutil.copytree(killed, tmp_path / "copy")
    manifest = tmp_path / "copy" / "run" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(str(killed), str(tmp_path / "copy")))
    return tmp_path / "copy"


def test_a_second_command_in_a_run_folder_is_refused_and_told_by_whom(few, script, tmp_path):
    out = tmp_path / "run"
    process = begin(few, out)
    process.send_signal(signal.SIGSTOP)  # it holds the folder as one that computes does
    try:
        for command in (
            ("train", "--data", few, "--out", out, *SMALL),
            ("train", "--out", out, "--resume"),
            ("optimize", out),
            ("report", out),
        ):
            before = (out / "config.yaml").read_bytes()
            refused = script(*command, check=False)
            assert refused.returncode == 1
            assert f"pid {process.pid} (marquee train)" in refused.stderr, refused.stderr
            assert len(refused.stderr.splitlines()) == 1
            assert (out / "config.yaml").read_bytes() == before
    finally:
        kill(process)
    resumed = script("train", "--out", out, "--resume", "--no-report", "--loop.epochs", "2")
    assert f"taken over from pid {process.pid}" in resumed.stderr
    assert not (out / LOCK_FILE).exists()


def test_two_trainings_at_once_leave_one_run(few, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--data", str(few), "--out", str(out), *SMALL]
    processes = [
        Forked([*command, "--loop.seed", seed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in ("1", "2")
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1], errors
    loser = errors[codes.index(1)].splitlines()[-1]
    # It came while the other one worked, or after it had finished.
    assert "is working in this folder" in loser or "exists already" in loser
    seed = str(codes.index(0) + 1)
    assert f"seed: {seed}" in (out / "config.yaml").read_text()
    spec = json.loads((out / "bundle" / "spec.json").read_text())
    assert str(spec["provenance"]["config"]["loop"]["seed"]) == seed


def test_what_a_killed_command_left_is_cleared_by_the_next(copy, script):
    run = copy / "run"
    (run / ".bundle.ab12_9xz").mkdir()
    (run / ".bundle.ab12_9xz" / "model.pt2").write_bytes(b"half")
    (run / ".evaluation.json.abcdefgh").write_text("{")
    (run / "checkpoints" / ".epoch-0002.abcdefgh").mkdir()
    (run / ".notes").write_text("mine")
    (run / ".envrc.personal").write_text("mine, too")
    script("train", "--out", run, "--resume", "--no-report", "--loop.epochs", "2")
    assert sorted(path.name for path in run.glob(".*")) == [".envrc.personal", ".notes"]
    assert not list((run / "checkpoints").glob(".*"))


def test_a_folder_that_was_about_to_be_replaced_is_put_back(tmp_path):
    (tmp_path / ".bundle.old.abcd1234" / "bundle").mkdir(parents=True)
    (tmp_path / ".bundle.old.abcd1234" / "bundle" / "spec.json").write_text("{}")
    (tmp_path / ".bundle.abcd1234").mkdir()
    clear_up(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")] == ["bundle/spec.json"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_run_goes_on_with_data_that_was_moved_and_renamed(copy, script):
    (copy / "data").rename(copy / "moved")
    for number, path in enumerate(sorted((copy / "moved" / "3").iterdir())):
        path.rename(path.with_name(f"renamed-{number}.png"))
    lost = script("train", "--out", copy / "run", "--resume", check=False)
    assert lost.returncode == 1
    assert "are no longer there" in lost.stderr
    assert "--data" in lost.stderr
    script("train", "--out", copy / "run", "--resume", "--no-report", "--data", copy / "moved", "--loop.epochs", "2")
    manifest = (copy / "run" / "manifest.csv").read_text()
    assert str(copy / "data") not in manifest
    assert str(copy / "moved" / "3" / "renamed-0.png") in manifest
    # What reads the manifest later finds them, too.
    (copy / "moved").rename(copy / "data")
    optimize = ("optimize", copy / "run", "--variants", "bf16", "--rounds", 1, "--seconds", 0.01)
    lost = script(*optimize, check=False)
    assert lost.returncode == 1
    assert "are no longer there" in lost.stderr
    script(*optimize, "--data", copy / "data")


def test_other_data_is_not_taken_for_the_runs(copy, digits, script):
    before = (copy / "run" / "manifest.csv").read_bytes()
    for data, words in (
        (digits / "train", "images of this run are not in it"),
        (copy / "nowhere", "no such folder"),
    ):
        refused = script("train", "--out", copy / "run", "--resume", "--data", data, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert str(data) in refused.stderr
    assert (copy / "run" / "manifest.csv").read_bytes() == before
    script("train", "--out", copy / "run", "--resume", "--no-report", "--data", copy / "data", "--loop.epochs", "2")


def test_an_import_makes_its_folder_once(run, digits, script, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    weights = next((run / "checkpoints").glob("epoch-*")) / "model.safetensors"
    refused = script(
        "import_model", "--model", weights, "--images", digits / "test", "--out", tmp_path / "out", check=False
    )
    assert refused.returncode != 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
