"""One contender's turn in a round: start, prove, warm, load, weigh, stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.bodies import Size, as_text
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.errors import ContenderError
from benchmarks.serving.process_tree import cpu_seconds, is_alive, last_line, memory, other_seconds
from benchmarks.serving.servers import Server

_START_SECONDS = 120
_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 60
_SETTLE_POLL_SECONDS = 0.25
_IDLE_CORES = 0.3
WARM_CLIENTS = 16
NOISY_CORES = 0.2
"""A load during which processes of others used more than this is worth little."""

Labels = Mapping[Path, str]
"""Photograph -> the label that it must get."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One load."""

    size: Size
    clients: int

    def metric(self, name: str) -> str:
        """Such as ``500x375@16/p50_ms``."""
        return f"{as_text(self.size)}@{self.clients}/{name}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens in a turn."""

    cells: tuple[Cell, ...]
    seconds: int
    """Of each load."""
    warmup: int
    """Seconds of load before the first that counts; a Java front end needs some to compile itself."""


def take_turn(
    contender: Contender, site: Site, plan: Plan, labels: Labels, say: Callable[[str], None]
) -> dict[str, float]:
    """The values of one turn: each cell's, and those of the whole.

    Args:
        contender: is started and stopped.
        site: folders.
        plan: loads; a contender that does not see sizes gets those of the first size only.
        labels: the right answers.
        say: told about each load.

    Raises:
        ContenderError: it does not start, or gives a wrong answer; the message ends with its log's last line.
    """
    begin = time.monotonic()
    try:
        with contender.start(site) as server:
            _wait(server, next(iter(labels)), begin + _START_SECONDS)
            values = {"start_seconds": time.monotonic() - begin}
            _check(server, labels)
            server.load(plan.cells[0].size, WARM_CLIENTS, plan.warmup)
            for cell in cells_of(contender, plan.cells):
                settle(server.process)
                measured = _load(server, cell, plan.seconds)
                values |= {cell.metric(name): value for name, value in measured.items()}
                say(f"{contender.name}  {as_text(cell.size)}, {cell.clients} clients: {_told(measured)}")
            held = memory(server.process)
            return {**values, "rss_mb": held.rss, "pss_mb": held.pss}
    except ContenderError as error:
        log = site.log(contender.name)
        said = f"; its log ends with: {last_line(log)}" if log.is_file() else ""
        raise ContenderError(f"{contender.name}: {error}{said}") from error


def cells_of(contender: Contender, cells: Sequence[Cell]) -> list[Cell]:
    """The loads that say something about the contender."""
    return [cell for cell in cells if contender.sees_sizes or cell.size == cells[0].size]


def _wait(server: Server, photograph: Path, deadline: float) -> None:
    data = photograph.read_bytes()
    while True:
        try:
            server.ask(data)
            return
        except ContenderError as error:
            if not is_alive(server.process):
                raise ContenderError("it ended before its first answer") from error
            if time.monotonic() > deadline:
                raise ContenderError(f"no answer within {_START_SECONDS} s of its start ({error})") from error
        time.sleep(_POLL_SECONDS)


def settle(process: psutil.Process) -> None:
    """Waits until a server has answered what the clients of the last load have asked and gone away from.

    A slow one would otherwise pay for up to 64 requests of the load before. One that is still not idle after a minute
    is taken as it is.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = cpu_seconds(process)
        time.sleep(_SETTLE_POLL_SECONDS)
        if cpu_seconds(process) - before < _IDLE_CORES * _SETTLE_POLL_SECONDS:
            return


def _check(server: Server, labels: Labels) -> None:
    """A contender that is fast because it does something else is none."""
    for photograph, label in labels.items():
        if (got := server.ask(photograph.read_bytes())) != label:
            raise ContenderError(f"{photograph.parent.name}/{photograph.name}: expected the label {label}, got {got}")


def _load(server: Server, cell: Cell, seconds: int) -> dict[str, float]:
    begin, before, others = time.monotonic(), cpu_seconds(server.process), other_seconds(server.process)
    load = server.load(cell.size, cell.clients, seconds)
    used = cpu_seconds(server.process) - before
    others = (other_seconds(server.process) - others) / (time.monotonic() - begin)
    return {
        "requests_per_second": load.good / load.seconds,
        "p50_ms": load.p50_ms,
        "p90_ms": load.p90_ms,
        "p99_ms": load.p99_ms,
        "cpu_ms": 1e3 * used / load.good if load.good else 0.0,
        "errors": float(load.errors),
        "other_cores": max(0.0, others),
    }


def _told(measured: Mapping[str, float]) -> str:
    errors = f", {measured['errors']:.0f} ERRORS" if measured["errors"] else ""
    if measured["other_cores"] > NOISY_CORES:
        errors += f", NOISY: other processes used {measured['other_cores']:.1f} cores"
    return f"{measured['requests_per_second']:.1f}/s, p50 {measured['p50_ms']:.1f} ms{errors}"
