"""In process: the predictor without a server, on all cores, in both ways to use them."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import ROOT
from benchmarks.serving.contenders.base import PASSIVE, Contender, Site
from benchmarks.serving.material import INT8
from benchmarks.serving.peers.place import MAX_BATCH
from benchmarks.serving.processes import ContenderError, started
from benchmarks.serving.servers import Load
from marquee.handlers.core.host import usable_cores

ONE_PROCESS, MANY_PROCESSES = "in-process-threads", "in-process-processes"


@dataclass(frozen=True)
class InProcess:
    """A :class:`benchmarks.serving.servers.Server` that is none."""

    process: psutil.Popen

    def ask(self, photograph: Path) -> str:
        """See :class:`benchmarks.serving.servers.Server`."""
        return str(self._run([photograph], 1, 0)[0][0])

    def load(self, photographs: Sequence[Path], clients: int, seconds: float) -> Load:
        """Batches as a server would form them of so many clients."""
        batch = min(MAX_BATCH, clients)
        parts = self._run(photographs, batch, seconds)
        # Each process counts its own seconds, so the sum of their speeds is the speed.
        rate = sum(images / took for _, images, took, _ in parts)
        latencies = np.concatenate([durations for *_, durations in parts])
        return Load(seconds=batch * len(latencies) / rate, latencies=latencies, images=batch)

    def _run(self, photographs: Sequence[Path], batch: int, seconds: float) -> list[Any]:
        line = json.dumps({"files": [*map(str, photographs)], "batch": batch, "seconds": seconds})
        try:
            print(line, file=self.process.stdin, flush=True)
            answer: list[Any] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            raise ContenderError(f"its process has ended: {error}") from error
        return answer


def _contender(name: str, title: str, processes: int, threads: int) -> Contender:
    @contextmanager
    def start(site: Site) -> Iterator[InProcess]:
        command = [sys.executable, "-m", "benchmarks.serving.in_process", str(site.material.absolute()), INT8]
        command += [str(processes), str(threads)]
        with started(command, ROOT, site.log(name), PASSIVE, pipes=True) as process:
            yield InProcess(process)

    return Contender(name=name, title=title, kind="limit", start=start, reference=INT8, needs=("openvino",))


_CORES = usable_cores()
CONTENDERS = (
    _contender(ONE_PROCESS, f"in process: 1 process, {_CORES} threads", 1, _CORES),
    _contender(MANY_PROCESSES, f"in process: {_CORES} processes, 1 thread each", _CORES, 1),
)
"""The better of both is the limit."""
