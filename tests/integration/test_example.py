"""The example of the linear regression runs from its first line to its last."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

from tests import forked
from tests.conftest import ROOT

EXAMPLE = [sys.executable, str(ROOT / "examples" / "linear_regression")]


@pytest.mark.slow
def test_the_example_shows_the_fault_and_corrects_it(tmp_path):
    """From another folder, as a user may be in; everything it writes is in --work."""
    work = tmp_path / "work"
    result = forked.run([EXAMPLE[0], f"{EXAMPLE[1]}/__main__.py", "--work", str(work)], cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["printed_nan_values"] == found["printed_values"] == 10
    assert found["corrected_rmse"] < 1e-6
    assert found["largest_served_error"] < 1e-6
    assert found["diabetes_rmse"] < 54.5
    assert found["largest_relative_difference"] <= 1e-6
    assert "(0 - 0) / 0 is NaN" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(work) in str(process.info["cmdline"])]


def test_ctrl_c_ends_it_in_one_line(tmp_path):
    process = subprocess.Popen([*EXAMPLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert first.startswith("== 1/5")
    assert process.returncode == 130
    assert output == ""
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
