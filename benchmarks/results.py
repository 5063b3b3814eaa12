"""Result files: raw values of every round and what they were measured on. Tables are made from them alone."""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import ROOT, program
from marquee.handlers.core.host import read_cpuinfo, usable_cores
from marquee.training.core.environment import library_versions
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_json

_ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")

Result = dict[str, Any]
"""``benchmark``, ``command``, ``date``, ``commit``, ``machine``, ``versions``; then ``settings``, ``rounds``,
``baseline`` (the contender that ratios refer to; empty: none) and ``series``."""
Values = dict[str, float]
"""Metric -> value of one contender in one round."""
Series = dict[str, dict[str, list[float]]]
"""Contender -> metric -> one value a round."""


class Summary(NamedTuple):
    """One metric of one contender over all rounds."""

    median: float
    low: float
    high: float
    ratio: float | None
    """To the baseline's values, see :func:`ratio_of`."""


def origin(benchmark: str) -> Result:
    """Where a result comes from; made before the first round, so that date and load are those of the start."""
    return {
        "benchmark": benchmark,
        "command": f"{program()} {shlex.join(sys.argv[1:])}".strip(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": library_versions(),
    }


def add(series: Series, contender: str, values: Values) -> None:
    """Adds a round's values of one contender."""
    for metric, value in values.items():
        series.setdefault(contender, {}).setdefault(metric, []).append(value)


def write_result(
    folder: Path, source: Result, settings: dict[str, Any], series: Series, baseline: str = "", name: str = ""
) -> Path:
    """Writes ``folder/NAME.json``, by default called as the benchmark is, and returns its path."""
    path = folder / f"{name or source['benchmark']}.json"
    rounds = max(len(values) for metrics in series.values() for values in metrics.values())
    baseline = baseline if baseline in series else ""
    write_json(path, {**source, "settings": settings, "rounds": rounds, "baseline": baseline, "series": series})
    return path


def read_result(path: Path) -> Result:
    """Reads what :func:`write_result` wrote.

    Raises:
        TrainingError: the file is no result file, or a metric lacks a round.
    """
    try:
        result: Result = json.loads(path.read_text("utf-8"))
        for contender, metrics in result["series"].items():
            for metric, values in metrics.items():
                if len(values) != result["rounds"]:
                    raise ValueError(f"{contender}, {metric}: {len(values)} values in {result['rounds']} rounds")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise TrainingError(f"{path}: no result of a benchmark: {error}; repeat the benchmark") from error
    return result


def summarise(result: Result, contender: str, metric: str) -> Summary | None:
    """Median, range and ratio; None where the contender was not measured by this metric."""
    values = result["series"][contender].get(metric)
    if values is None:
        return None
    base = result["series"].get(result["baseline"], {}).get(metric, [])
    ratio = ratio_of(values, base) if base and all(base) else None
    return Summary(statistics.median(values), min(values), max(values), ratio)


def ratio_of(values: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios within each round, where both contenders met the same state of the machine."""
    return statistics.median(one / other for one, other in zip(values, base, strict=True))


def kept(path: Path, settings: dict[str, Any], compute: Callable[[], Values]) -> Values:
    """The values of an earlier call with this ``path``, else those of ``compute``: an interrupted benchmark goes on.

    Raises:
        TrainingError: ``settings``, which decide the values, were others then.
    """
    if not path.exists():
        write_json(path, {"settings": settings, "values": compute()})
    document = json.loads(path.read_text("utf-8"))
    if document["settings"] != settings:
        raise TrainingError(f"{path}: is of a run with other settings; remove its folder, or choose another --work")
    values: Values = document["values"]
    return values


def _machine() -> dict[str, Any]:
    info = read_cpuinfo()
    flags = set(f"{info.get('flags', '')} {info.get('Features', '')}".split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "isa_flags": [flag for flag in _ISA_FLAGS if flag in flags],
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "load": round(os.getloadavg()[0], 2),  # of the minute before; well under 1 on a quiet machine
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
