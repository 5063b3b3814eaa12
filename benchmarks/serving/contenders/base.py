"""What a contender is, and where it finds its things."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmarks.serving.environments import Environment
from benchmarks.serving.servers import Server

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""As this project's server has it: for the processes that hold our predictor."""
Kind = Literal["limit", "marquee", "ours", "eager"]
"""``limit``: our predictor without a server; ``marquee``: this project; ``ours``: another server with our predictor
inside; ``eager``: another server with PyTorch as its documentation shows it."""


@dataclass(kw_only=True)
class Site:
    """Folders of a benchmark run."""

    work: Path
    """Everything below it."""

    def __post_init__(self) -> None:
        self.material = self.work / "material"
        """See :mod:`benchmarks.serving.material`."""
        self.store = self.work / "store"
        """Model archives."""

    def state(self, name: str) -> Path:
        """A contender's own folder."""
        return self.work / "state" / name

    def log(self, name: str) -> Path:
        """What a contender says."""
        return self.state(name) / "benchmark.log"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of the tables."""

    name: str
    """On the command line and in result files."""
    title: str
    """In tables."""
    kind: Kind
    start: Callable[[Site], AbstractContextManager[Server]]
    """Starts it; it is asked until it answers."""
    reference: str
    """Whose labels it must give: ``eager``, or a variant of the bundle."""
    needs: tuple[str, ...] = ()
    """Modules without which it is left out."""
    environment: Environment | None = None
    """What runs it, where its packages cannot be installed beside this project's; without it, it is left out."""
    prepare: Callable[[Site], None] = lambda site: None
    """Done once, before anything is timed."""
    sees_sizes: bool = True
    """False when the client resizes, so that larger photographs are the same bodies."""

    @property
    def missing(self) -> list[str]:
        """Those of its modules that are not installed."""
        absent = [name for name in self.needs if find_spec(name) is None]
        return absent if self.environment is None or self.environment.is_made else [*absent, self.environment.name]

    @property
    def remedy(self) -> str:
        """How to install what is missing."""
        if self.environment is None or self.environment.is_made:
            return "see requirements.txt"
        return f"python -m benchmarks.serving.environments --names {self.environment.name}"


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
