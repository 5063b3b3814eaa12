"""The demo of tables, and the steps of a demo that go wrong; test_wheel.py goes the whole way with images."""

import csv
import json

import pytest

from marquee.serving.server import find


@pytest.mark.slow
def test_the_demo_of_tables(tmp_path, script):
    work = tmp_path / "demo"
    result = script("run_demo", "--task", "tabular", "--work", work)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["rmse"] < 60
    assert 0.8 < told["coverage"] <= 1
    assert told["test_rows"] == told["rest_equal"] == told["grpc_equal"] > 50
    assert told["golden_checked"] == told["golden_equal"] >= 2 * 16
    assert told["workers_ready"] == 2
    assert find(work / "server") is None
    steps = [line for line in result.stderr.splitlines() if line.startswith("== ") and line[4:6] == "/7"]
    assert [line[3] for line in steps] == list("1234567")
    with open(work / "data" / "diabetes.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 442
    assert f" diabetes {work / 'data' / 'diabetes.csv'}" in result.stderr


def test_a_failing_step_is_named_with_its_log(tmp_path, script):
    """A library that cannot be imported: training fails, and the demo says where to read why."""
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('this torch is broken')")
    result = script("run_demo", "--work", tmp_path / "demo", check=False, PYTHONPATH=str(broken.parent))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: step train failed: RuntimeError: this torch is broken")
    assert last.endswith(f"log: {tmp_path / 'demo' / 'logs' / 'train.log'}")
    assert '"accuracy"' not in result.stdout


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path, script):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = script("run_demo", "--work", tmp_path, check=False)
    assert result.returncode == 1
    assert "not a demo's folder" in result.stderr
    assert (tmp_path / "thesis.tex").exists()
