"""Settings of the server, one changed at a time: what config.properties and the logging are worth.

Each setting has a server of its own; all are up at once, and asked in turn. A small network answers digits, so that the
front end decides, or a ResNet-18 photographs. The front end's CPU time a request is steadier than the throughput on a
machine that others use, too.

Example: python -m benchmarks.serving.settings --group netty
"""

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import tyro

from benchmarks import ROOT
from benchmarks.render import table
from benchmarks.results import Series, origin, write_result
from benchmarks.serving.archives import RESULTS, digits_archive, digits_bodies, photo_bodies, resnet18_archive
from marquee.commands.cli import run
from marquee.serving.settings import read_properties
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.tuning.private import PrivateServer, private_server

CONFIG = ROOT / "config.properties"
AS_IT_IS = "config.properties"
"""The contender that changes nothing."""
_OUR_LOGS, _STOCK_LOGS = "-Dlog4j.configurationFile=", "-Dlog4j2.level=info"

GROUPS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "netty": {
        "1 thread each": {"number_of_netty_threads": "1", "netty_client_threads": "1"},
        "2 threads each": {"number_of_netty_threads": "2", "netty_client_threads": "2"},
        "8 threads each": {"number_of_netty_threads": "8", "netty_client_threads": "8"},
    },
    "jvm": {
        "SerialGC": {"vmargs": "-XX:+UseSerialGC"},
        "ParallelGC": {"vmargs": "-XX:+UseParallelGC"},
        "SerialGC, heap 512 MB": {"vmargs": "-XX:+UseSerialGC -Xmx512m"},
        "C2 compiler too": {"vmargs": "-XX:TieredStopAtLevel=4"},
    },
    "io": {
        "prefer_direct_buffer=true": {"prefer_direct_buffer": "true"},
        "use_native_io=false": {"use_native_io": "false"},
    },
    "logs": {
        "async_logging=false": {"async_logging": "false"},
        "metrics_mode=log": {"metrics_mode": "log"},
        "TorchServe's own logging": {"vmargs": _STOCK_LOGS},
    },
}
"""Group -> contender -> keys in place of those of config.properties; ``vmargs`` are added to those that are there."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Arguments."""

    group: Literal["netty", "jvm", "io", "logs"]
    """What is changed."""
    model: Literal["digits", "resnet18"] = "digits"
    """resnet18: in int8, asked for photographs, so that the front end and the worker want the same cores."""
    clients: int = 16
    """That wait for their answers."""
    seconds: float = 2.0
    """Of each setting in each round, with --clients, and again with one."""
    rounds: int = 5
    """Rounds; each measures every setting."""
    warm_seconds: float = 8.0
    """The longest that a front end is warmed up before the rounds."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if min(self.clients, self.seconds, self.rounds) <= 0:
            raise ValueError("clients: expected positive numbers")


def main() -> None:
    """Entry point."""
    arguments = tyro.cli(Settings, prog="python -m benchmarks.serving.settings", description=__doc__)
    suffix = "" if arguments.model == "digits" else f"_{arguments.model}"
    began = origin(f"settings_{arguments.group}{suffix}", "benchmarks.serving")
    archive, bodies = _served(arguments.model)
    contenders = {AS_IT_IS: {}, **GROUPS[arguments.group]}
    series: Series = {name: {} for name in contenders}
    with tempfile.TemporaryDirectory(prefix="marquee-") as folder, ExitStack() as stack:
        up: dict[str, tuple[PrivateServer, Endpoint]] = {}
        for number, (name, changes) in enumerate(contenders.items()):
            settings = _settings(changes)
            state = Path(folder) / str(number)
            server = stack.enter_context(
                private_server(archive, CONFIG, state, bodies, arguments.clients, settings, arguments.warm_seconds)
            )
            up[name] = (server, stack.enter_context(server.model({}, workers=1)))
        for _ in range(arguments.rounds):
            for name, (server, endpoint) in up.items():
                _measure(series[name], server, endpoint, bodies, arguments)
    result = began.result(asdict(arguments), series, baseline=AS_IT_IS)
    path = write_result(RESULTS, result)
    print(json.dumps(asdict(result)) if arguments.json else f"{table(result)}\n\nwrote {path}")


def _served(model: str) -> tuple[Path, list[bytes]]:
    """The archive, and bodies to ask it for."""
    if model == "digits":
        archive = digits_archive()
        return archive, digits_bodies(archive)
    return resnet18_archive(), photo_bodies()


def _settings(changes: Mapping[str, str]) -> dict[str, str]:
    """Keys for a server; without the project's logging where TorchServe's own is asked for."""
    if "vmargs" not in changes:
        return dict(changes)
    flags = read_properties(CONFIG)["vmargs"].split()
    if changes["vmargs"] == _STOCK_LOGS:
        flags = [flag for flag in flags if not flag.startswith(_OUR_LOGS)]
    # Of two values for one flag Java takes the last.
    return {**changes, "vmargs": " ".join([*flags, changes["vmargs"]])}


def _measure(
    metrics: dict[str, list[float]],
    server: PrivateServer,
    endpoint: Endpoint,
    bodies: list[bytes],
    arguments: Settings,
) -> None:
    process = psutil.Process(server.pid)
    before = _cpu_seconds(process)
    many = closed_loop(endpoint, bodies, arguments.clients, arguments.seconds)
    used = _cpu_seconds(process) - before
    one = closed_loop(endpoint, bodies, 1, arguments.seconds)
    values = {
        "answers_per_second": many.throughput,
        "latency_p50_ms": many.percentile_ms(50),
        "latency_p99_ms": many.percentile_ms(99),
        "one_p50_ms": one.percentile_ms(50),
        "cpu_us_per_request": 1e6 * used / max(1, many.answered),
        "memory_mb": process.memory_info().rss / 1e6,
        "errors": float(many.errors + many.rejected + one.errors + one.rejected),
    }
    for metric, value in values.items():
        metrics.setdefault(metric, []).append(value)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    run(main)
