"""What a served model does when more is asked of it than it can give, by the length of its queue.

Capacity is measured with clients that wait for their answers. Then requests come at 1, 2 and 5 times that rate whether
they are answered or not, and at half of it right after, which shows the recovery. Photographs of 500x375 pixels, one
worker.

Example: python -m benchmarks.serving.overload
"""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from benchmarks import ROOT
from benchmarks.render import table
from benchmarks.results import Series, origin, write_result
from benchmarks.serving.archives import RESULTS, digits_archive, photo_bodies
from marquee.commands.cli import run
from marquee.serving.tuning.load import Endpoint, Load, closed_loop, open_loop
from marquee.serving.tuning.private import private_server

FACTORS = (1.0, 2.0, 5.0, 0.5)
"""Offered rates as multiples of the capacity, in their order: the last one shows the recovery."""


@dataclass(frozen=True, kw_only=True)
class Overload:
    """Arguments."""

    queues: tuple[int, ...] = (100, 16)
    """Lengths of the queue (jobQueueSize) to compare; the first is the baseline."""
    seconds: float = 4.0
    """Of each rate in each round."""
    rounds: int = 3
    """Rounds; each measures every queue."""
    clients: int = 16
    """That wait for their answers, for the capacity."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if not self.queues or min(*self.queues, self.seconds, self.rounds, self.clients) <= 0:
            raise ValueError("queues: expected positive numbers")


def main() -> None:
    """Entry point."""
    arguments = tyro.cli(Overload, prog="python -m benchmarks.serving.overload", description=__doc__)
    began = origin("overload", "benchmarks.serving")
    archive, bodies = digits_archive(), photo_bodies()
    series: Series = {}
    with tempfile.TemporaryDirectory(prefix="marquee-") as folder, ExitStack() as stack:
        server = stack.enter_context(
            private_server(archive, ROOT / "config.properties", Path(folder), bodies, arguments.clients)
        )
        endpoints = {
            queue: stack.enter_context(server.model({"jobQueueSize": queue}, workers=1)) for queue in arguments.queues
        }
        for number in range(arguments.rounds):
            for queue, endpoint in endpoints.items():
                _round(series, queue, endpoint, bodies, arguments, seed=number)
    result = began.result(asdict(arguments), series)
    path = write_result(RESULTS, result)
    print(json.dumps(asdict(result)) if arguments.json else f"{table(result)}\n\nwrote {path}")


def _round(series: Series, queue: int, endpoint: Endpoint, bodies: list[bytes], arguments: Overload, seed: int) -> None:
    capacity = closed_loop(endpoint, bodies, arguments.clients, arguments.seconds)
    _note(series, f"queue {queue}, {arguments.clients} clients that wait", capacity)
    for factor in FACTORS:
        load = open_loop(endpoint, bodies, factor * capacity.throughput, arguments.seconds, seed)
        _note(series, f"queue {queue}, {factor:g} x capacity", load)


def _note(series: Series, contender: str, load: Load) -> None:
    values = {
        "offered_per_second": load.sent / load.seconds,
        "answers_per_second": load.answered / load.seconds,
        "rejected_share": load.rejected / load.sent,
        # 0 where there was none.
        "rejected_p99_ms": load.percentile_ms(99, 503) if load.rejected else 0.0,
        "latency_p50_ms": load.percentile_ms(50) if load.answered else 0.0,
        "latency_p99_ms": load.percentile_ms(99) if load.answered else 0.0,
        "errors": float(load.errors),
    }
    for metric, value in values.items():
        series.setdefault(contender, {}).setdefault(metric, []).append(value)


if __name__ == "__main__":
    run(main)
