"""Result files: raw values of every round, what is computed from them, and what they were measured on."""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from marquee.handlers.host import read_cpuinfo, usable_cores
from marquee.handlers.schema import from_dict, to_dict
from marquee.training.environment import library_versions
from marquee.training.errors import TrainingError
from marquee.training.files import write_json

RESULTS = ROOT / "benchmarks" / "training" / "results"
SCHEMA_VERSION = 1
_ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")

Series = dict[str, dict[str, list[float]]]
"""Contender -> metric -> one value a round."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a result was measured on."""

    cpu: str
    """Model name, as the kernel tells it."""
    cores: int
    """Cores that this process may use."""
    isa: str
    """Vector width that PyTorch chose, such as ``AVX512``."""
    isa_flags: tuple[str, ...]
    """Flags of the CPU that matter for the speed of a network."""
    threads: int
    """PyTorch's threads within one operation."""
    platform: str
    load: float
    """Load average of the minute before the benchmark; well under 1 on a quiet machine."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one contender over all rounds."""

    median: float
    low: float
    high: float
    ratio: float | None = None
    """Median, over the rounds, of this contender's value divided by the baseline's in the same round."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result file.

    ``series`` are the raw values; ``summary`` follows from them and is kept for readers without Python.
    """

    schema_version: int = SCHEMA_VERSION
    benchmark: str
    command: str
    date: str
    """Start, ISO 8601, UTC."""
    commit: str
    """Of the project; ``-dirty`` where files differed from it."""
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    rounds: int
    """Rounds or seeds."""
    baseline: str = ""
    """The contender that ratios refer to; empty: none."""
    series: Series
    summary: dict[str, dict[str, Summary]]

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(f"schema_version: expected {SCHEMA_VERSION}, got {self.schema_version}")
        if self.baseline and self.baseline not in self.series:
            raise ValueError(f"baseline: {self.baseline!r} is not one of the contenders")
        for contender, metrics in self.series.items():
            for metric, values in metrics.items():
                if len(values) != self.rounds:
                    raise ValueError(f"series.{contender}.{metric}: {len(values)} values in {self.rounds} rounds")
        if self.summary != summarise(self.series, self.baseline):
            raise ValueError("summary: does not follow from series")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a result comes from; made before the first round, so that date and load are those of the start."""

    benchmark: str
    command: str
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    commit: str = field(default_factory=lambda: _commit())
    machine: Machine = field(default_factory=lambda: describe_machine())

    def result(self, settings: dict[str, Any], series: Series, baseline: str = "") -> Result:
        """The result of these series, each of which has one value a round."""
        return Result(
            benchmark=self.benchmark,
            command=self.command,
            date=self.date,
            commit=self.commit,
            machine=self.machine,
            versions=library_versions(),
            settings=settings,
            rounds=max(len(values) for metrics in series.values() for values in metrics.values()),
            baseline=baseline,
            series=series,
            summary=summarise(series, baseline),
        )


def origin(benchmark: str, package: str = "benchmarks.training") -> Origin:
    """The origin of what the running command, a module of ``package``, measures."""
    module = Path(sys.argv[0]).stem
    return Origin(benchmark=benchmark, command=shlex.join(["python", "-m", f"{package}.{module}", *sys.argv[1:]]))


def summarise(series: Series, baseline: str = "") -> dict[str, dict[str, Summary]]:
    """Medians, ranges and ratios of each contender's metrics.

    A ratio is taken within each round, where both contenders met the same state of the machine, and then the median of
    those; it is None for the baseline's missing metrics and for a baseline of zero.
    """
    return {
        contender: {
            metric: Summary(
                median=statistics.median(values),
                low=min(values),
                high=max(values),
                ratio=_ratio(values, series.get(baseline, {}).get(metric, [])),
            )
            for metric, values in metrics.items()
        }
        for contender, metrics in series.items()
    }


def _ratio(values: Sequence[float], base: Sequence[float]) -> float | None:
    if len(base) != len(values) or not all(base):
        return None
    return statistics.median(value / reference for value, reference in zip(values, base, strict=True))


def write_result(folder: Path, result: Result) -> Path:
    """Writes ``folder/BENCHMARK.json`` and returns its path."""
    path = folder / f"{result.benchmark}.json"
    write_json(path, to_dict(result))
    return path


def read_result(path: Path) -> Result:
    """Reads what :func:`write_result` wrote.

    Raises:
        TrainingError: the file is no result file; the message names the field.
    """
    try:
        return from_dict(Result, json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:  # JSON's and the schema's errors are ValueErrors
        raise TrainingError(f"{path}: {error}; repeat the benchmark") from error


def describe_machine() -> Machine:
    """The machine that this process runs on."""
    info = read_cpuinfo()
    flags = set(f"{info.get('flags', '')} {info.get('Features', '')}".split())
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        isa=torch.backends.cpu.get_cpu_capability(),
        isa_flags=tuple(flag for flag in _ISA_FLAGS if flag in flags),
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        load=round(os.getloadavg()[0], 2),
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
