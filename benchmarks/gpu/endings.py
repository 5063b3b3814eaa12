"""Runs that end early: a loss that is NaN, out of memory in the middle of an epoch, Ctrl-C.

What is right: one line that says what to do, the exit code of an error, and a checkpoint from which the run goes on.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu.short_run import fit
from benchmarks.gpu.step import Report, Site, environment
from benchmarks.gpu.training import INTERRUPTED, command
from marquee.training.core.checkpoint import CheckpointStore
from marquee.training.core.config import RunConfig, merge_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.loop import NonFiniteLossError
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder

_POLL_SECONDS = 0.02
_PATIENCE = 120.0
"""Seconds for a process to reach its second epoch, and again to end."""
_ONE_LINE = 1_500
"""Characters that a message may have."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a training process ended."""

    code: int
    errors: str
    """What it wrote to stderr."""

    @property
    def message(self) -> str:
        """Its last line."""
        return (self.errors.strip().splitlines() or [""])[-1]

    def says(self, *words: str) -> bool:
        """Whether it ended with one line that has these words, and without a traceback."""
        short = len(self.message) <= _ONE_LINE and "Traceback" not in self.errors
        return short and all(word in self.message for word in words)


def report_endings(site: Site, report: Report, config: RunConfig, data: Path) -> None:
    """Adds the rows of all three; ``config`` has at least two epochs of several steps on ``data``."""
    with report.guard("NaN loss"):
        _not_finite(report, config, data, site.work / "not-finite")
    with report.guard("early ends"):
        short, stopped = site.work / "out-of-memory", site.work / "interrupted"
        often = merge_config(config, {"checkpoint": {"steps": 1}})
        endless = merge_config(config, {"loop": {"epochs": 1_000}})
        arguments = ["benchmarks.gpu.short_of_memory", *command(often, data, short)[1:]]
        # Both start before either is waited for: most of their time is the start of Python.
        with _started(arguments, short) as first, _started(command(endless, data, stopped), stopped) as second:
            with report.guard("Ctrl-C"):
                _interrupted(report, second, endless, data, stopped)
            with report.guard("out of memory"):
                _out_of_memory(report, _wait(first, short), often, data, short)


def _not_finite(report: Report, config: RunConfig, data: Path, out: Path) -> None:
    """A learning rate that no network survives: the second step's loss is infinite or NaN."""
    wild = merge_config(config, {"optimizer": {"lr": 1e30, "clip_norm": 0.0, "schedule": "constant"}})
    try:
        train(wild, data, out, report=False)
    except TrainingError as error:
        said = str(error)
        right = isinstance(error.__cause__, NonFiniteLossError) and "lower --optimizer.lr" in said and "\n" not in said
        listed = (out / "non-finite-loss-rank-0.txt").is_file()
        report.row("NaN loss", said, right=right and listed, wanted="one line that says what to lower; images listed")
    else:
        report.row("NaN loss", "the run ended as if nothing were wrong", right=False)


def _out_of_memory(report: Report, ended: Ended, config: RunConfig, data: Path, out: Path) -> None:
    right = ended.code == 1 and ended.says("out of memory", "is intact", "--loop.accumulate", "--resume")
    wanted = "exit code 1 and one line that names the checkpoint and what to do"
    report.row("out of memory", ended.message, right=right, wanted=wanted, note=f"exit code {ended.code}")
    if not right:
        print(ended.errors, file=sys.stderr)
    last = CheckpointStore(RunFolder(out).checkpoints).find("last")
    name = "none" if last is None else last.name
    report.row("its checkpoint", name, right=name.startswith("epoch-0001-batch-"), wanted="of the second epoch, intact")
    with report.guard("resumed after out of memory"):
        _resume(report, "resumed after out of memory", config, data, out)


def _interrupted(report: Report, process: "subprocess.Popen[bytes]", config: RunConfig, data: Path, out: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while _epochs(out) < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    ended = _wait(process, out)
    right = ended.code == INTERRUPTED and ended.says("the state is saved", "--resume")
    wanted = "one line that says how to resume"
    report.row("Ctrl-C", ended.message, right=right, wanted=wanted, note=f"exit code {ended.code}")
    report.row("from Ctrl-C to the end", round(time.monotonic() - started, 2), "s")
    if not right:
        print(ended.errors, file=sys.stderr)
    with report.guard("resumed after Ctrl-C"):
        fewer = merge_config(config, {"loop": {"epochs": _epochs(out) + 1}})
        _resume(report, "resumed after Ctrl-C", fewer, data, out)


def _resume(report: Report, name: str, config: RunConfig, data: Path, out: Path) -> None:
    """Goes on to the last epoch."""
    result = fit(config, data, out, resume=True)
    right = len(result.train_losses) == config.loop.epochs and result.learns
    accuracy = round(100 * result.accuracy, 1)
    report.row(name, accuracy, "% accuracy", right=right, wanted="all epochs, and the loss falls", note=result.course)


def _epochs(out: Path) -> int:
    """Epochs that a run has logged."""
    path = RunFolder(out).metrics
    return len(path.read_text("utf-8").splitlines()) if path.is_file() else 0


@contextmanager
def _started(arguments: list[str], out: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A Python process, which does not outlive the block; ``OUT.log`` is what it writes to stderr."""
    with out.with_name(f"{out.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", out: Path) -> Ended:
    """Waits for the end; a process that goes on is killed."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE)
    process.kill()
    return Ended(code=process.wait(), errors=out.with_name(f"{out.name}.log").read_text("utf-8", "replace"))
