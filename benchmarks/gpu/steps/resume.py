"""Exact resume: a run that is killed in the middle of an epoch and resumed ends with an uninterrupted run's weights."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from benchmarks import ROOT
from benchmarks.gpu.differences import are_equal, largest_difference
from benchmarks.gpu.material import digits, quick_config
from benchmarks.gpu.short_run import fit
from benchmarks.gpu.step import CUBLAS_WORKSPACE, Report, Site, environment
from benchmarks.gpu.steps.gauges import Deadline
from benchmarks.gpu.training import command
from marquee.training.core.checkpoint import WEIGHTS
from marquee.training.core.config import RunConfig
from marquee.training.core.device import deterministic_algorithms
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder

_POLL_SECONDS = 0.01
_SECOND_EPOCH = re.compile(r"epoch-0001-batch-\d+")
_UNIT = "largest difference of a weight"


def run(site: Site, report: Report) -> None:
    """Compares weights: resumed and uninterrupted, and on a GPU two equal runs with PyTorch's default algorithms."""
    deadline = Deadline(site.seconds)
    with report.guard("resumed after kill -9"):
        _resumed(site, report)
    if site.full:
        with report.guard("default algorithms"):
            _default_algorithms(site, report, deadline)


def config_of(site: Site, deterministic: bool) -> RunConfig:
    """A short run with every source of random numbers, an average of the weights, and checkpoints within its epochs."""
    return quick_config(
        site,
        model={"dropout": 0.1},
        augment={"crop_scale": 0.8, "rotation": 10.0},
        loop={"epochs": 6 if site.full else 2, "ema": 0.9, "deterministic": deterministic},
        checkpoint={"steps": 3 if site.full else 10},
    )


def _resumed(site: Site, report: Report) -> None:
    config, data = config_of(site, deterministic=True), digits(site)
    killed, whole, again = (site.work / name for name in ("killed", "whole", "again"))
    at = _kill(config, data, killed, site.seconds / 2)
    train(config, data, killed, resume=True, report=False)
    with deterministic_algorithms(True):
        fit(config, data, whole)
    same = are_equal(_weights(killed), _weights(whole))
    report.row(
        "resumed after kill -9",
        _apart(killed, whole),
        _UNIT,
        right=same,
        wanted="0: bit for bit that of an uninterrupted run",
        note=f"deterministic algorithms; killed after {at}, resumed to the end and exported",
    )
    if not same:  # is it the resume, or do the kernels themselves vary?
        with deterministic_algorithms(True):
            fit(config, data, again)
        report.row("two uninterrupted runs", _apart(whole, again), _UNIT, note="deterministic algorithms")


def _kill(config: RunConfig, data: Path, out: Path, seconds: float) -> str:
    """Kills a run in the middle of its second epoch; returns the name of its last checkpoint.

    Raises:
        RuntimeError: it ended before, or did not get there in time.
    """
    last, deadline = RunFolder(out).checkpoints / "last", time.monotonic() + seconds
    process = subprocess.Popen([sys.executable, "-m", *command(config, data, out)], cwd=ROOT, env=environment())
    try:
        while not (last.is_file() and _SECOND_EPOCH.fullmatch(last.read_text("utf-8").strip())):
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with code {process.returncode} before it was killed")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the run was not in its second epoch after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
    finally:
        process.kill()
        process.wait()
    return last.read_text("utf-8").strip()


def _default_algorithms(site: Site, report: Report, deadline: Deadline) -> None:
    """Two equal runs at once, in processes that have never heard of deterministic algorithms."""
    config, data = config_of(site, deterministic=False), digits(site)
    both = [site.work / name for name in ("default-1", "default-2")]
    _run_together([[*command(config, data, out), "--loop-alone"] for out in both], deadline)
    report.row("two runs with PyTorch's default algorithms", _apart(*both), _UNIT, note="nothing is wanted of it")


def _run_together(commands: Sequence[Sequence[str]], deadline: Deadline) -> None:
    """Runs Python modules at once; none outlives the call.

    Raises:
        RuntimeError: one failed.
        subprocess.TimeoutExpired: one had not ended when the step's time had.
    """
    clean = {name: value for name, value in environment().items() if name != CUBLAS_WORKSPACE}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for one in commands:
            processes.append(subprocess.Popen([sys.executable, "-m", *one], cwd=ROOT, env=clean))
        codes = [process.wait(max(1.0, deadline.left)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise RuntimeError(f"the runs ended with codes {codes}")


def _apart(first: Path, second: Path) -> float:
    """The largest difference between the last weights of two runs."""
    return largest_difference(*(_weights(run) for run in (first, second)))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoints = RunFolder(run).checkpoints
    return safetensors.torch.load_file(checkpoints / (checkpoints / "last").read_text("utf-8").strip() / WEIGHTS)
