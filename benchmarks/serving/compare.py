"""Serve one network by this project and by its peers; measure speed, latency, memory and start, round by round.

Every contender in turn is started, must give the right answers, is warmed, loaded by wrk, and stopped; then the next;
then all of them again. Never do two run at once. An interrupted run goes on where it was when started again.

Example: python -m benchmarks.serving.compare --quick

Writes RESULTS/compare.json after each round; then run: python -m benchmarks.render
"""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import ROOT
from benchmarks.kept import kept
from benchmarks.results import Origin, Series, origin, read_result, write_result
from benchmarks.serving.bodies import Size, as_text
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.contenders.stock import STOCK
from benchmarks.serving.errors import ContenderError
from benchmarks.serving.material import make_material
from benchmarks.serving.references import find_labels
from benchmarks.serving.targets import OURS, judge, sentence
from benchmarks.serving.turn import Cell, Plan, take_turn
from benchmarks.serving.wrk import find_wrk
from marquee.commands.cli import run
from marquee.handlers.spec import bundle_digest
from marquee.training.errors import TrainingError

RESULTS = ROOT / "benchmarks" / "serving" / "results"
_PACKAGES = ("torchserve", "openvino", "fastapi", "uvicorn", "litserve", "bentoml", "ray", "flask", "gunicorn")
COMMON_CLIENTS = 16
"""Photographs larger than the first size are asked for by so many only, unless every cell is wanted."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Arguments."""

    contenders: tuple[str, ...] = ()
    """Names; none: all but the optional ones."""
    family: Literal["all", "eager", "ours"] = "all"
    """Peers with eager PyTorch as their documentation shows it, with our predictor inside, or both."""
    clients: tuple[int, ...] = (1, 16, 64)
    """Clients that ask at once."""
    sizes: tuple[str, ...] = ("500x375", "1920x1080", "4032x3024")
    """Width and height of the photographs in pixels."""
    every_cell: bool = False
    """Ask for every size with every number of clients, not the larger ones with 16 only."""
    seconds: int = 3
    """Of each load."""
    warmup: int = 8
    """Seconds of load before the first that counts."""
    rounds: int = 5
    """How often every contender has its turn."""
    quick: bool = False
    """A look: 2 rounds of 2 seconds, no loads of 64 clients or 1920x1080. Overrides these settings."""
    work: Path = ROOT / ".benchmarks" / "serving"
    """Folder for models, photographs, logs and finished turns."""
    results: Path = RESULTS
    """Folder of the result file."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        for name in ("rounds", "seconds", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.clients or min(self.clients) < 1:
            raise ValueError(f"clients: expected numbers of at least 1, got {self.clients}")
        if unknown := [name for name in self.contenders if name not in CONTENDERS]:
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(CONTENDERS)}")
        if not self.sizes:
            raise ValueError("sizes: expected at least one, such as 500x375")
        for size in self.sizes:
            parse_size(size)

    @property
    def plan(self) -> Plan:
        """The loads of a turn."""
        sizes = [parse_size(size) for size in self.sizes]
        if self.quick:
            cells = [Cell(size=sizes[0], clients=1), *(Cell(size=size, clients=16) for size in (sizes[0], sizes[-1]))]
            return Plan(cells=tuple(dict.fromkeys(cells)), seconds=2, warmup=2)
        common = COMMON_CLIENTS if COMMON_CLIENTS in self.clients else max(self.clients)
        cells = [
            Cell(size=size, clients=clients)
            for size in sizes
            for clients in self.clients
            if size == sizes[0] or self.every_cell or clients == common
        ]
        return Plan(cells=tuple(cells), seconds=self.seconds, warmup=self.warmup)

    @property
    def all_rounds(self) -> int:
        """Rounds."""
        return 2 if self.quick else self.rounds


def parse_size(text: str) -> Size:
    """``500x375`` -> (500, 375).

    Raises:
        ValueError: it is not of this form.
    """
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"sizes: expected WIDTHxHEIGHT, such as 500x375, got {text!r}")
    return int(width), int(height)


def choose(settings: Compare, say: Callable[[str], None]) -> list[Contender]:
    """Those that take part; one whose package is missing is left out by name.

    Raises:
        TrainingError: nobody is left.
    """
    kinds = {"limit", "marquee", *(("eager", "ours") if settings.family == "all" else (settings.family,))}
    named = [CONTENDERS[name] for name in settings.contenders]
    wanted = named or [one for one in CONTENDERS.values() if one.is_default and one.kind in kinds]
    chosen = []
    for contender in wanted:
        if contender.missing:
            say(f"LEFT OUT: {contender.name}: not installed: {', '.join(contender.missing)}; pip install -e '.[bench]'")
        else:
            chosen.append(contender)
    if not chosen:
        raise TrainingError("no contender is left; pip install -e '.[bench]'")
    return chosen


def compare(settings: Compare, say: Callable[[str], None]) -> Path:
    """Runs all rounds and returns the result file.

    Raises:
        TrainingError: wrk is not installed, or no contender could be measured.
    """
    find_wrk()
    chosen, plan, site = choose(settings, say), settings.plan, Site(work=settings.work.absolute())
    source = origin("compare", "benchmarks.serving")
    say("making models and photographs")
    make_material(site.material)
    sizes = list(dict.fromkeys(cell.size for cell in plan.cells))
    labels = find_labels(dict.fromkeys(one.reference for one in chosen), site, sizes)
    for contender in chosen:
        contender.prepare(site)
    described = _describe(plan, site)
    series: Series = {}
    failed: dict[str, str] = {}
    turns = site.work / "turns" / hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]
    for number in range(1, settings.all_rounds + 1):
        for contender in chosen:
            if contender.name in failed:
                continue
            say(f"round {number} of {settings.all_rounds}: {contender.name}")
            try:
                values = kept(
                    turns / f"{number}-{contender.name}.json",
                    {**described, "contender": contender.name},
                    lambda one=contender: take_turn(one, site, plan, labels[one.reference], say),  # type: ignore[misc]
                )
            except ContenderError as error:
                say(f"LEFT OUT: {error}")
                failed[contender.name] = str(error)
                series.pop(contender.name, None)
                continue
            for metric, value in values.items():
                series.setdefault(contender.name, {}).setdefault(metric, []).append(value)
        # After every round: what an interruption leaves is a result of fewer rounds.
        path = _write(settings, source, described, series, failed)
    shutil.rmtree(turns)
    return path


def _write(
    settings: Compare, source: Origin, described: dict[str, Any], series: Series, failed: dict[str, str]
) -> Path:
    if not series:
        raise TrainingError(f"no contender could be measured; the first: {next(iter(failed.values()))}")
    used = {**described, "left_out": failed, "versions": _versions()}
    return write_result(settings.results, source.result(used, series, STOCK if STOCK in series else ""))


def _describe(plan: Plan, site: Site) -> dict[str, Any]:
    """Everything that decides the values of a turn, as JSON has it."""
    return {
        "cells": [[as_text(cell.size), cell.clients] for cell in plan.cells],
        "seconds": plan.seconds,
        "warmup": plan.warmup,
        "bundle": bundle_digest(site.material / "bundle"),
        "code": _code_digest(),
    }


def _code_digest() -> str:
    """Of what is measured and how: turns before a change of it are not mixed with those after."""
    digest = hashlib.sha256()
    folders = (ROOT / "handlers", ROOT / "serving", ROOT / "benchmarks" / "serving")
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    """Of the servers and of what runs in them, as far as installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    """Entry point."""
    settings = tyro.cli(Compare, prog="python -m benchmarks.serving.compare", description=__doc__)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    path = compare(settings, say)
    result = read_result(path)
    for name in OURS:
        if name in result.series:
            say(f"{CONTENDERS[name].title}:")
            for verdict in judge(result.series, name):
                say(f"  {sentence(verdict)}")
    print(json.dumps(json.loads(path.read_text("utf-8"))) if settings.json else f"result in {path}")


if __name__ == "__main__":
    run(main)
