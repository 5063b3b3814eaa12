"""scripts/select_model.py on tables as a user runs it: real data, a small ladder, interruptions."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.utils import Bunch

from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.training.selection.report import BASELINE
from marquee.training.selection.store import REQUEST_FILE
from tests.conftest import ROOT
from tests.forked import Forked
from tests.integration.test_training import wait_for

pytestmark = pytest.mark.slow  # what they share takes that long to make

LADDER = """
- {name: linear, config: {model: {name: linear}}}
- {name: wild, config: {model: {name: mlp, width: 8, depth: 1}, optimizer: {name: sgd, lr: 1.0e+30, clip_norm: 0.0}}}
- {name: mlp, config: {model: {name: mlp, width: 16, depth: 1}, loop: {epochs: 12}}}
"""


def write(path: Path, data: Bunch, target: list[object], name: str) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(feature.replace("/", "_") for feature in data.feature_names), name])
        writer.writerows([*row, answer] for row, answer in zip(data.data.tolist(), target, strict=True))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    data = load_diabetes(scaled=False)
    folder = tmp_path_factory.mktemp("select_table")
    (folder / "ladder.yaml").write_text(LADDER)
    return write(folder / "diabetes.csv", data, data.target.tolist(), "progression")


def arguments(table: Path, out: Path) -> list[str]:
    options = ["--task", "tabular-regression", "--target", "progression", "--folds", "3", "--all"]
    options += ["--table.units", "progression", "points"]
    return [str(table), "--out", str(out), "--candidates", str(table.parent / "ladder.yaml"), *options]


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
    assert list(rows) == [BASELINE, "linear", "wild", "mlp"]
    assert rows[BASELINE]["mean"] == pytest.approx(77, abs=1)  # the deviation of the target
    assert 50 < rows["linear"]["mean"] < 60
    assert rows["linear"]["mean"] == pytest.approx(np.mean(rows["linear"]["rmses"]))
    assert rows["linear"]["parameters"] == 11
    assert "failed: " in rows["wild"]["reason"]
    page = (selected / "selection.md").read_text()
    assert "| RMSE points |" in page
    assert f"| {BASELINE} " in page
    assert "RMSE in points, bars: 95 % interval" in (selected / "selection.svg").read_text()
    # What a fold is trained with is not kept; what it found is.
    found = {path.relative_to(selected / "folds").as_posix() for path in (selected / "folds").rglob("*.json")}
    assert found >= {f"{name}/{fold}.json" for name in ("linear", "mlp") for fold in (1, 2, 3)}
    assert not list((selected / "folds" / "linear").glob("*/*"))


def test_the_winner_is_a_run_like_any_other(selected, script, tmp_path):
    winner = selected / "winner"
    assert not replay(Predictor.load(winner / "bundle"))
    with open(winner / "manifest.csv", newline="") as stream:
        splits = [row["split"] for row in csv.DictReader(stream)]
    assert len(splits) == 442
    assert set(splits) == {"train", "val"}
    script("package", winner, "--name", "diabetes", "--store", tmp_path)
    assert (tmp_path / "diabetes.mar").exists()


def test_killed_and_continued(table, selected, script, tmp_path):
    """kill -9 in one fold, and the numbers of a selection that nobody disturbed."""
    whole, out = selected, tmp_path / "out"
    (out / "folds" / "linear").mkdir(parents=True)
    for done in (REQUEST_FILE, *(f"folds/linear/{fold}.json" for fold in (1, 2, 3))):
        shutil.copy2(whole / done, out / done)
    command = [sys.executable, str(ROOT / "scripts" / "select_model.py"), *arguments(table, out)]
    process = Forked(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    wait_for(lambda: (out / "folds" / "mlp" / "1" / "checkpoints" / "last").exists(), process)
    process.kill()
    process.communicate()

    result = script("select_model", *arguments(table, out))
    assert "linear: all folds are already measured" in result.stderr
    exact = ("rmses", "mean", "sd", "low", "high", "difference", "p", "verdict", "parameters")
    for name in (BASELINE, "linear", "mlp"):
        before, after = candidates(whole)[name], candidates(out)[name]
        assert {key: before[key] for key in exact} == {key: after[key] for key in exact}
    models = [(folder / "winner" / "bundle" / "model.pt2").read_bytes() for folder in (whole, out)]
    assert models[0] == models[1]


def test_classes(script, tmp_path):
    data = load_wine()
    table = write(tmp_path / "wine.csv", data, [data.target_names[i] for i in data.target], "kind")
    (tmp_path / "ladder.yaml").write_text("[{name: linear, config: {loop: {epochs: 40}}}]")
    options = ["--task", "tabular-classification", "--target", "kind", "--folds", "3"]
    result = script(
        "select_model", table, "--out", tmp_path / "out", "--candidates", tmp_path / "ladder.yaml", *options
    )
    rows = candidates(tmp_path / "out")
    assert rows[BASELINE]["mean"] == pytest.approx(71 / 178, abs=0.01)
    assert rows["linear"]["mean"] > 0.9
    assert "Chosen: linear, 9" in result.stdout


def test_usage(table, script, tmp_path):
    missing = script("select_model", table, "--task", "tabular-regression", "--out", tmp_path / "a", check=False)
    assert missing.returncode == 1
    assert "--target COLUMN" in missing.stderr
    wrong = script("select_model", *arguments(table, tmp_path / "b"), "--config", tmp_path / "none", check=False)
    assert wrong.returncode == 1
    assert "no such file, and no recipe of that name" in wrong.stderr
    assert "ladder" not in wrong.stderr
