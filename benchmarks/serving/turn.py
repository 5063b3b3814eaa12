"""One contender's turn in a round: start, prove, warm, load, weigh, stop."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import tell
from benchmarks.photographs import GRAIN, write_photographs
from benchmarks.results import Values
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.processes import ContenderError, cpu_seconds, is_alive, last_line, memory, other_seconds
from benchmarks.serving.servers import Server

_PHOTOGRAPHS = 8
_START_SECONDS = 120
_POLL_SECONDS = 0.1
_WARM_CLIENTS = 16
NOISY_CORES = 0.2
"""A load during which processes of others used more than this is worth little."""

Size = tuple[int, int]
"""Width and height in pixels."""
Cell = tuple[Size, int]
"""One load: size of the photographs, clients."""


class Plan(NamedTuple):
    """What happens in a turn."""

    cells: tuple[Cell, ...]
    """Loads."""
    seconds: float
    """Of each."""
    warmup: float
    """Seconds of load before the first that counts; a Java front end needs some to compile itself."""


def as_text(size: Size) -> str:
    """Such as ``500x375``."""
    return f"{size[0]}x{size[1]}"


def photographs(site: Site, size: Size) -> list[Path]:
    """JPEG files of the size, which are sent in turn."""
    return write_photographs(site.work / "photographs" / as_text(size), size, _PHOTOGRAPHS, GRAIN)


def take_turn(contender: Contender, site: Site, plan: Plan, labels: Mapping[Size, str]) -> Values:
    """The values of one turn: each cell's, and those of the whole.

    Args:
        contender: is started and stopped.
        site: folders.
        plan: loads; a contender that does not see sizes gets those of the first size only.
        labels: the right answers for the first photograph of each size.

    Raises:
        ContenderError: it does not start, or gives a wrong answer; the message ends with its log's last line.
    """
    bodies = {size: photographs(site, size) for size in labels}
    first = next(iter(bodies.values()))
    begin = time.monotonic()
    try:
        with contender.start(site) as server:
            _wait(server, first[0], begin + _START_SECONDS)
            values = {"start_seconds": time.monotonic() - begin}
            # A contender that is fast because it does something else is none.
            for size, label in labels.items():
                if (got := server.ask(bodies[size][0])) != label:
                    raise ContenderError(f"{as_text(size)}: expected the label {label}, got {got}")
            server.load(first, _WARM_CLIENTS, plan.warmup)
            for size, clients in cells_of(contender, plan.cells):
                cell = f"{as_text(size)}@{clients}"
                measured = _load(server, bodies[size], clients, plan.seconds)
                values |= {f"{cell}/{name}": value for name, value in measured.items()}
                tell(f"{contender.name}  {cell}  " + "  ".join(f"{name} {one:.1f}" for name, one in measured.items()))
            return {**values, **memory(server.process)}
    except ContenderError as error:
        log = site.log(contender.name)
        said = f"; its log ends with: {last_line(log)}" if log.is_file() else ""
        raise ContenderError(f"{contender.name}: {error}{said}") from error


def cells_of(contender: Contender, cells: Sequence[Cell]) -> list[Cell]:
    """The loads that say something about the contender."""
    return [cell for cell in cells if contender.sees_sizes or cell[0] == cells[0][0]]


def _wait(server: Server, photograph: Path, deadline: float) -> None:
    while True:
        try:
            server.ask(photograph)
            return
        except ContenderError as error:
            if not is_alive(server.process):
                raise ContenderError("it ended before its first answer") from error
            if time.monotonic() > deadline:
                raise ContenderError(f"no answer within {_START_SECONDS} s of its start ({error})") from error
        time.sleep(_POLL_SECONDS)


def _load(server: Server, bodies: Sequence[Path], clients: int, seconds: float) -> Values:
    begin, before, others = time.monotonic(), cpu_seconds(server.process), other_seconds(server.process)
    load = server.load(bodies, clients, seconds)
    used = cpu_seconds(server.process) - before
    others = (other_seconds(server.process) - others) / (time.monotonic() - begin)
    good = load.images * len(load.latencies)
    p50, p99 = 1e3 * np.percentile(load.latencies, (50, 99)) if good else (0.0, 0.0)
    return {
        "requests_per_second": good / load.seconds,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "cpu_ms": 1e3 * used / good if good else 0.0,
        "errors": float(load.errors),
        "other_cores": max(0.0, others),
    }
