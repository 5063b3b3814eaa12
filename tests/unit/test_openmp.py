"""OpenMP's threads do not spin for long, wherever something computes: OpenMP itself says so as it is loaded."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from marquee.openmp import SPINS, limit_spinning, limit_threads

BIN = Path(sys.executable).parent
WAYS = {
    "marquee": [BIN / "marquee", "evaluate", "nothing", "--data", "nowhere"],
    "notebook": [sys.executable, "-c", "import marquee, torch"],
    "torchrun": [BIN / "torchrun", "--nproc-per-node=1", "-m", "marquee", "train", "--data=nowhere", "--out=nothing"],
}


def spins(command: list, cwd: Path) -> set[str]:
    """What each process that loads OpenMP reports."""
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    )
    reported = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", result.stderr)
    assert reported, result.stderr
    return set(reported)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.slow
def test_threads_sleep_soon(way, tmp_path):
    reported = spins(WAYS[way], tmp_path)
    # torchrun itself loads torch before it starts what is ours.
    assert reported == {SPINS} or (way == "torchrun" and SPINS in reported)


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_environment_decides_where_it_says_something(name, monkeypatch):
    for variable in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "7")
    limit_spinning()
    assert {key: os.environ.get(key) for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if key in os.environ} == {
        name: "7"
    }


@pytest.mark.parametrize(
    ("quota", "given", "threads"), [(None, None, None), (1.5, None, "2"), (1.5, "5", "5"), (64.0, None, None)]
)
def test_the_quota_of_a_container_counts_as_its_cores(quota, given, threads, monkeypatch):
    monkeypatch.setattr("marquee.openmp.cpu_quota", lambda: quota)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
