"""Runs the steps one after the other, each in a child process with a time limit, and writes down what they found.

``OUT/result.json`` and ``OUT/page.md`` are replaced after each step, so that a cut leaves what was done;
``OUT/logs/NAME.log`` is what a step printed, ``OUT/work`` what it worked on.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import ROOT, program, tell
from benchmarks.gpu.page import render, row_line
from benchmarks.gpu.plan import absent
from benchmarks.gpu.step import Row, Site, Step, environment, error_row, read_rows
from marquee.training.core.files import write_atomic, write_json

GRACE = 5.0
"""Seconds that a step has, after SIGTERM, to stop what it has started."""
_FACTS_SECONDS = 120.0
LEAST = 5.0
"""A step with fewer seconds left than this is not begun."""
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run."""

    steps: Sequence[Step]
    device: str
    """``cuda`` or ``cpu``."""
    minutes: float
    """For all steps that can run here; they share it by their weights, and what one leaves goes to those after it."""
    out: Path
    """A new folder."""


def run(plan: Plan) -> int:
    """Runs the steps and writes the result file and the page.

    Returns:
        0; 1 where something is not right, failed, or had no time; 130 after Ctrl-C or SIGTERM.
    """
    ends = time.monotonic() + 60 * plan.minutes
    result = _begin(plan)
    _write(plan, result)
    try:
        with _sigterm_as_interrupt():
            result["machine"] = _machine(plan)
            steps = _skip_absent(plan, result)
            for number, (step, entry) in enumerate(steps):
                seconds = share(ends - time.monotonic(), [one.weight for one, _ in steps[number:]])
                _run_step(plan, step, seconds, entry, result)
    except KeyboardInterrupt:
        tell("interrupted; what was done is kept")
        result["interrupted"] = True
    _finish(plan, result)
    if result["interrupted"]:
        return INTERRUPTED
    return 0 if is_right(result) else 1


def share(left: float, weights: Sequence[float]) -> float:
    """Seconds for the first of the steps with these weights, of those that are left for all of them."""
    return max(0.0, left) * weights[0] / sum(weights)


def is_right(result: dict[str, Any]) -> bool:
    """Whether every step that could run here ran to its end, and no row is wrong."""
    ended = all(step["status"] in ("done", "skipped") for step in result["steps"])
    return ended and all(row["right"] is not False for step in result["steps"] for row in step["rows"])


def _begin(plan: Plan) -> dict[str, Any]:
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(commit, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        described = ""
    return {
        "benchmark": "gpu",
        "command": f"{program().removesuffix('.__main__')} {shlex.join(sys.argv[1:])}".strip(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": described or "unknown",
        "device": plan.device,
        "minutes": plan.minutes,
        "interrupted": False,
        "machine": {},
        "steps": [
            {"name": step.name, "title": step.title, "status": "not run", "seconds": 0.0, "limit": 0.0, "rows": []}
            for step in plan.steps
        ],
    }


def _machine(plan: Plan) -> dict[str, Any]:
    """See :mod:`benchmarks.gpu.machine`; where it fails, ``error``, its last line."""
    command = [sys.executable, "-m", "benchmarks.gpu.machine", plan.device]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=_FACTS_SECONDS, check=False
        )
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"no facts after {_FACTS_SECONDS:.0f} s"}
    except (ValueError, IndexError):
        return {"error": (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]}
    return facts


def _skip_absent(plan: Plan, result: dict[str, Any]) -> list[tuple[Step, dict[str, Any]]]:
    """The steps that can run here, each with its entry of the result; the entries of the others say what they need."""
    runnable = []
    for step, entry in zip(plan.steps, result["steps"], strict=True):
        if missing := absent(step):
            entry |= {"status": "skipped", "reason": f"needs {', '.join(missing)}"}
            tell(f"{step.name}: skipped: {entry['reason']}")
        else:
            runnable.append((step, entry))
    _write(plan, result)
    return runnable


def _run_step(plan: Plan, step: Step, seconds: float, entry: dict[str, Any], result: dict[str, Any]) -> None:
    """Runs a step and fills its entry of the result; both files are written before this returns or raises."""
    if seconds < LEAST:
        entry |= {"status": "not run", "reason": "no time was left"}
        tell(f"{step.name}: not run, no time is left")
        _write(plan, result)
    else:
        tell(f"{step.name}: {step.title}, at most {seconds:.0f} s")
        _in_child(plan, step, seconds, entry, result)


def _in_child(plan: Plan, step: Step, seconds: float, entry: dict[str, Any], result: dict[str, Any]) -> None:
    work = plan.out / "work"
    site = Site(device=plan.device, work=work / step.name, shared=work / "shared", seconds=seconds)
    for folder in (site.work, site.shared, plan.out / "logs"):
        folder.mkdir(parents=True, exist_ok=True)
    log, started = plan.out / "logs" / f"{step.name}.log", time.monotonic()
    status, added = "interrupted", list[Row]()
    try:
        status, added = _wait(step, site, log)
    finally:
        rows = [*read_rows(site.rows), *added]
        took = round(time.monotonic() - started, 1)
        entry |= {"status": status, "seconds": took, "limit": round(seconds, 1), "rows": rows}
        _write(plan, result)
        for row in rows:
            tell(f"  {row_line(row)}")
        tell(f"{step.name}: {status} in {took:.0f} s")


def _wait(step: Step, site: Site, log: Path) -> tuple[str, list[Row]]:
    """Waits for a step's process and ends it where it has to; returns the status, and rows that tell of its end."""
    command = [sys.executable, "-m", "benchmarks.gpu.child", step.module, site.to_json()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**_threads(site)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(site.seconds)
        except subprocess.TimeoutExpired:
            return "timed out", [error_row("the step", f"timed out after {site.seconds:.0f} s")]
        finally:
            _end(process)
    if code == 0:
        return "done", []
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
    return "failed", [error_row("the step", ": ".join([how, *last]))]


def _threads(site: Site) -> dict[str, str]:
    """One thread for the small networks on the CPU, which more only slow down where cores are shared."""
    return {} if site.full else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a step's process, if it still runs, and whatever it left in its process group."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with suppress(ProcessLookupError, PermissionError):  # nothing is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(plan: Plan, result: dict[str, Any]) -> None:
    write_json(plan.out / "result.json", result)
    write_atomic(plan.out / "page.md", render(result))


def _finish(plan: Plan, result: dict[str, Any]) -> None:
    """Writes both files; what the steps worked on is removed where all is right."""
    _write(plan, result)
    if is_right(result) and not result["interrupted"]:
        shutil.rmtree(plan.out / "work", ignore_errors=True)
    tell(f"wrote {plan.out / 'page.md'} and result.json")
