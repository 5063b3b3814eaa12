"""scripts/select_model.py as a user runs it: a small ladder on real digits, interruptions, budgets."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.config import OptimizerConfig
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.selection.candidates import Candidate, read_ladder
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.report import Report
from marquee.training.selection.select import select
from marquee.training.selection.store import REQUEST_FILE
from marquee.training.tasks.image_classification.config import (
    AugmentConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    ModelConfig,
)
from marquee.training.tasks.image_classification.models import create_backbone
from tests.conftest import ROOT
from tests.forked import Forked
from tests.integration.test_training import wait_for, weights

pytestmark = pytest.mark.slow  # what they share takes that long to make

LADDER = """
- {name: probe, kind: probe, config: {model: {arch: cnn4_w8}}}
- {name: absent, config: {model: {arch: cnn4_w8, pretrained: nowhere.safetensors}}}
- {name: small, config: {model: {arch: cnn4_w8}, loop: {epochs: 3}}}
"""
SETTINGS = (
    "--folds 2 --all --image.size 32 --loop.workers 0 --optimizer.lr 4e-3 --augment.horizontal-flip 0 "
    "--augment.crop-scale 0.9 --augment.rotation 0 --augment.zoom 0 --augment.color 0"
).split()


BASE = ImageRunConfig(
    image=ImageConfig(size=32),
    loop=ImageLoopConfig(workers=0),
    optimizer=OptimizerConfig(lr=4e-3),
    augment=AugmentConfig(horizontal_flip=0, crop_scale=0.9, rotation=0, zoom=0, color=0),
)
"""The same settings, for calls that need no process of their own."""
PROBE = Candidate(name="probe", kind="probe", config={"model": {"arch": "cnn4_w8"}})


@pytest.fixture(scope="module")
def table(digits, tmp_path_factory) -> Path:
    """Few digits, five neighbours in a group, and some that are kept for the end."""
    path = tmp_path_factory.mktemp("selection") / "digits.csv"
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", "group"])
        for digit in range(10):
            for split, count in (("train", 40), ("test", 10)):
                files = sorted((digits / split / str(digit)).glob("*.png"))[:count]
                for i, file in enumerate(files):
                    named = "test" if split == "test" else ""
                    writer.writerow([file, digit, named, f"{split} {digit} {i // 5}"])
    (path.parent / "ladder.yaml").write_text(LADDER)
    return path


def arguments(table: Path, out: Path) -> list[str]:
    return [str(table), "--out", str(out), "--candidates", str(table.parent / "ladder.yaml"), *SETTINGS]


@pytest.fixture(scope="module")
def selected(table, script) -> Path:
    """A whole selection, without interruption."""
    out = table.parent / "selected"
    printed = script("select_model", *arguments(table, out), "--json")
    assert json.loads(printed.stdout) == json.loads((out / "selection.json").read_text())
    return out


def candidates(out: Path) -> dict[str, dict]:
    return {row["candidate"]: row for row in json.loads((out / "selection.json").read_text())["candidates"]}


def test_a_selection_holds_what_it_promises(selected):
    rows = candidates(selected)
    assert list(rows) == ["probe", "absent", "small"]
    for name in ("probe", "small"):
        row = rows[name]
        assert len(row["accuracies"]) == row["folds"] == 2
        assert row["mean"] == pytest.approx(sum(row["accuracies"]) / 2)
        assert row["latency_ms"] > 0
        assert row["weight_mb"] == pytest.approx(4 * row["parameters"] / 1e6, rel=0.05)
    assert rows["probe"]["mean"] > 0.5
    assert "nowhere.safetensors: no such file" in rows["absent"]["reason"]
    assert (rows["absent"]["folds"], rows["absent"]["mean"]) == (0, None)
    with open(selected / "selection.csv", newline="") as stream:
        assert [row["candidate"] for row in csv.DictReader(stream)] == list(rows)
    page = (selected / "selection.md").read_text()
    assert "| small " in page
    assert "absent was skipped: " in page
    assert (selected / "selection.svg").read_text().startswith("<?xml")
    # What a fold is trained with is not kept; what it found is.
    assert {path.name for path in (selected / "folds").rglob("*") if path.is_file()} == {"1.json", "2.json"}


def test_the_winner_is_a_run_like_any_other(selected, script, tmp_path):
    winner = selected / "winner"
    predictor = Predictor.load(winner / "bundle")
    assert not replay(predictor)
    evaluation = json.loads((winner / "evaluation.json").read_text())
    assert (evaluation["split"], evaluation["images"]) == ("test", 100)
    with open(winner / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(places) == 1 for places in splits.values())
    assert sum(row["split"] == "train" for row in rows) > 300
    script("package", winner, "--name", "digits", "--store", tmp_path)
    assert (tmp_path / "digits.mar").exists()


def call(table: Path, out: Path, *more: Candidate, base: ImageRunConfig = BASE, **config) -> Report:
    ladder = more or read_ladder(table.parent / "ladder.yaml")
    options = SelectionConfig(**{"folds": 2, **config})
    return select(table, out, ladder, base, options, Rule(all=True), Progress(quiet=True))


def test_with_its_budget_spent_a_probe_wins_and_others_can_start_from_it(table, selected, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match="no candidate is complete: the budget of 1e-06 minutes is spent"):
        call(table, out, minutes=1e-6)
    shutil.copytree(selected / "folds" / "probe", out / "folds" / "probe")  # a candidate that is done
    some = call(table, out, minutes=1e-6)
    assert some.decision.choice == "probe"
    assert "budget" in some.ended
    assert [row.verdict for row in some.rows] == ["chosen", "skipped", "not measured"]
    assert "chosen" in some.table()
    winner = out / "winner"
    spec = json.loads((winner / "bundle" / "spec.json").read_text())
    assert spec["provenance"]["probe"]["backbone"] == "frozen, randomly initialised"
    assert spec["provenance"]["metrics"]["accuracy"] > 0.5
    assert not replay(Predictor.load(winner / "bundle"))
    trained = weights(winner, "best")
    model = ModelConfig(arch="cnn4_w8", pretrained=str(winner))
    heir = create_backbone(model, ImageConfig(size=32), classes=10, channels=1).state_dict()
    assert all(value.equal(trained[f"backbone.{key}"]) for key, value in heir.items())


def start(table: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "select_model.py"), *arguments(table, out)]
    return Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
def test_killed_interrupted_and_gone_on_with(table, selected, script, tmp_path):
    """Ctrl-C in one fold, kill -9 in the next, and the numbers of a selection that nobody disturbed."""
    out = tmp_path / "out"
    (out / "folds" / "probe").mkdir(parents=True)
    for done in (REQUEST_FILE, "folds/probe/1.json"):
        shutil.copy2(selected / done, out / done)
    process = start(table, out)
    wait_for(lambda: (out / "folds" / "small" / "1" / "checkpoints" / "last").exists(), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Repeat the command to continue with {out}" in stderr
    assert "Traceback" not in stderr
    assert not (out / "folds" / "small" / "1.json").exists()

    process = start(table, out)
    wait_for(lambda: (out / "folds" / "small" / "2" / "checkpoints" / "last").exists(), process)
    process.kill()
    _, stderr = process.communicate()
    assert "resuming from" in stderr
    finished = {path: path.stat().st_mtime_ns for path in (out / "folds").glob("*/*.json")}
    assert {f"{path.parent.name}/{path.stem}" for path in finished} == {"probe/1", "probe/2", "small/1"}

    result = script("select_model", *arguments(table, out))
    assert "probe: all folds are already measured" in result.stderr
    assert "small, fold 1" not in result.stderr
    assert "resuming from" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    exact = ("accuracies", "mean", "sd", "low", "high", "difference", "p", "verdict", "parameters")
    for name, row in candidates(selected).items():
        assert {key: row[key] for key in exact} == {key: candidates(out)[name][key] for key in exact}
    for folder in (selected, out):
        assert Predictor.load(folder / "winner" / "bundle")
    assert (selected / "winner" / "bundle" / "model.pt2").read_bytes() == (
        out / "winner" / "bundle" / "model.pt2"
    ).read_bytes()


@pytest.mark.parametrize(
    ("config", "base", "message"),
    [
        ({"folds": 3}, BASE, "was begun with folds 2, not 3"),
        ({}, replace(BASE, loop=ImageLoopConfig(workers=0, seed=1)), "was begun with seed 0, not 1"),
        (
            {},
            replace(BASE, optimizer=OptimizerConfig(lr=1e-3)),
            "candidate probe was begun with optimizer.lr 0.004, not 0.001",
        ),
    ],
)
def test_another_selection_in_the_same_folder(table, selected, config, base, message):
    with pytest.raises(TrainingError, match=message):
        call(table, selected, base=base, **config)


def test_folders_and_data_that_do_not_belong(table, selected, tmp_path):
    (tmp_path / "part.csv").write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(TrainingError, match="was begun with other images"):
        call(tmp_path / "part.csv", selected, PROBE)
    with pytest.raises(TrainingError, match="holds no selection"):
        call(table, tmp_path)


def test_a_candidate_that_fails_is_left_out(table, selected, tmp_path):
    """Its learning rate explodes; the others are not lost for it."""
    wild = {"optimizer": {"lr": 1e30, "clip_norm": 0.0, "warmup_epochs": 0.0}, "model": {"arch": "cnn4_w8"}}
    shutil.copytree(selected, tmp_path / "out")
    ladder = (*read_ladder(table.parent / "ladder.yaml"), Candidate(name="wild", config=wild))
    rows = {row.candidate: row for row in call(table, tmp_path / "out", *ladder).rows}
    assert "lower --optimizer.lr" in rows["wild"].reason
    assert rows["small"].mean == candidates(selected)["small"]["mean"]


def test_usage(table, script, tmp_path):
    result = script("select_model", table, "--out", tmp_path / "out", "--folds", 1, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: --folds: expected at least 2, got 1\n"
    for wrong in ({"alpha": 2}, {"patience": -1}, {"min_gain": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rule(**wrong)
