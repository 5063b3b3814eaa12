"""A third task is new files, and a line in each of three registries: it trains, is evaluated, packaged and served."""

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from marquee.serving.settings import Addresses
from tests import forked
from tests.conftest import ROOT

TOY = ROOT / "tests" / "data" / "toy_task"
FILES = {
    "numbers_input.py": "handlers/inputs/numbers.py",
    "number_output.py": "handlers/outputs/number.py",
    "task.py": "training/tasks/linear.py",
}
LINES = {
    "handlers/inputs/__init__.py": 'KINDS["numbers"] = ".numbers"\n',
    "handlers/outputs/__init__.py": 'KINDS["number"] = ".number"\n',
    "training/tasks/__init__.py": (
        '_LINEAR = "marquee.training.tasks.linear"\n'
        'TASKS["linear"] = Registration(f"{_LINEAR}:LinearConfig", f"{_LINEAR}:Linear")\n'
    ),
}


@pytest.fixture(scope="module")
def marquee(tmp_path_factory):
    """The command of a copy of this project that has the task."""
    place = tmp_path_factory.mktemp("project")
    package = place / "marquee"
    shutil.copytree(ROOT / "src" / "marquee", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, target in FILES.items():
        shutil.copyfile(TOY / name, package / target)
    for name, line in LINES.items():
        with open(package / name, "a", encoding="utf-8") as stream:
            stream.write(line)

    program = forked.command(place / "command", "marquee", plain=True)

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(place)},
            cwd=place,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def write_rows(path: Path) -> Path:
    """y = 2 a - b + 3, without noise."""
    rows = np.random.default_rng(0).normal(size=(200, 2))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["a", "b", "y"], *([a, b, 2 * a - b + 3] for a, b in rows)])
    return path


def test_it_trains_packages_and_serves(marquee, tmp_path):
    data, run, store = write_rows(tmp_path / "rows.csv"), tmp_path / "run", tmp_path / "store"
    settings = ("--loop.epochs", 12, "--loop.batch-size", 8, "--optimizer.lr", 0.1, "--optimizer.weight-decay", 0)
    trained = marquee("train", "--task", "linear", "--data", data, "--out", run, *settings, "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["error"] < 0.05
    spec = json.loads((run / "bundle" / "spec.json").read_text())
    assert (spec["task"], spec["input"]["kind"], spec["output"]["kind"]) == ("linear", "numbers", "number")
    evaluated = marquee("evaluate", run, "--data", data, "--seen")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "mean absolute error" in evaluated.stdout
    assert "120 + 40         rows used for training" in evaluated.stdout
    refused = marquee("evaluate", run, "--data", data, "--seen", "--tta", "flip")
    assert refused.returncode == 1
    assert "models for linear have no test-time augmentation" in refused.stderr
    frozen = marquee(
        "train", "--task", "linear", "--data", data, "--out", tmp_path / "x", "--optimizer.freeze-epochs", 1
    )
    assert frozen.returncode == 1
    assert "this model has no part that could be frozen" in frozen.stderr
    # What has its own pages, variants or explanations says that there are none here.
    assert marquee("report", run).returncode == 0
    refused = marquee("optimize", run)
    assert refused.returncode == 1
    assert "models for linear cannot be optimised" in refused.stderr
    packed = marquee("package", run, "--name", "line", "--store", store)
    assert packed.returncode == 0, packed.stderr
    place = ("--store", store, "--state", tmp_path / "state")
    try:
        served = marquee("serve", "start", "line", *place, "--port", Addresses.free().base_port, "--json")
        assert served.returncode == 0, served.stderr
        answer = json.loads(served.stdout)
        assert answer["checked"] == 2 * 16
        assert answer["differences"] == []
        rows = {"three.json": {"row": [1, 1]}, "many.json": {"instances": [{"row": [0, 0]}, {"row": [0]}]}}
        for name, body in rows.items():
            (tmp_path / name).write_text(json.dumps(body))
        asked = marquee("predict", "line", *(tmp_path / name for name in rows), "--json", *place[2:])
        assert asked.returncode == 0, asked.stderr
        first, second = (json.loads(line) for line in asked.stdout.splitlines())
        assert first["value"] == pytest.approx(4, abs=0.1)
        good, bad = second["predictions"]
        assert good["value"] == pytest.approx(3, abs=0.1)
        assert bad["error"]["code"] == "bad_request"
    finally:
        marquee("serve", "stop", *place[2:])


def test_another_task_is_refused_by_name(marquee, tmp_path):
    refused = marquee("train", "--task", "poetry", "--data", tmp_path, "--out", tmp_path / "run")
    assert refused.returncode == 2
    assert "--task: expected one of image-classification, multi-label-classification, tabular" in refused.stderr
    assert ", linear, got 'poetry'" in refused.stderr
