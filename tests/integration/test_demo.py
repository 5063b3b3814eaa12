"""scripts/demo, whole."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_demo_proves_every_answer(tmp_path):
    # The environment that runs this test is the one that scripts/demo would make.
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.fail(f"scripts/demo uses {ROOT / '.venv'}; run the tests with scripts/test")
    result = subprocess.run(
        [ROOT / "scripts" / "demo", "--work", tmp_path / "demo"],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["accuracy"] >= 0.97
    assert summary["test_images"] == summary["rest_equal"] == summary["grpc_equal"] == 355
    assert summary["golden_checked"] == summary["golden_equal"] == 32
    assert summary["workers_ready"] == 2
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_a_failing_step_is_named_with_its_log(tmp_path, script):
    """A library that cannot be imported: training fails, and the demo says where to read why."""
    broken = tmp_path / "broken" / "timm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('this timm is broken')")
    result = script("run_demo", "--work", tmp_path / "demo", check=False, PYTHONPATH=str(broken.parent))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: step train failed: RuntimeError: this timm is broken")
    assert last.endswith(f"log: {tmp_path / 'demo' / 'logs' / 'train.log'}")
    assert '"accuracy"' not in result.stdout


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path, script):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = script("run_demo", "--work", tmp_path, check=False)
    assert result.returncode == 1
    assert "no demo's folder" in result.stderr
    assert (tmp_path / "thesis.tex").exists()
