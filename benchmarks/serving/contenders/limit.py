"""In process: the predictor without a server, on all cores, in both ways to use them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT
from benchmarks.serving.bodies import Size, write_bodies
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.contenders.peers import PASSIVE
from benchmarks.serving.errors import ContenderError
from benchmarks.serving.load import Load, parse_load
from benchmarks.serving.material import INT8
from benchmarks.serving.peers.place import MAX_BATCH
from benchmarks.serving.process_tree import stop
from marquee.handlers.host import usable_cores

ONE_PROCESS, MANY_PROCESSES = "in-process-threads", "in-process-processes"


@dataclass(frozen=True)
class InProcess:
    """A :class:`benchmarks.serving.servers.Server` that is none."""

    process: psutil.Process
    pipe: "subprocess.Popen[str]"
    bodies: Path

    def ask(self, photograph: bytes) -> str:
        """See :class:`benchmarks.serving.servers.Server`."""
        with tempfile.NamedTemporaryFile(suffix=".jpg") as stream:
            stream.write(photograph)
            stream.flush()
            return str(json.loads(self._command({"ask": stream.name}))["label"])

    def load(self, size: Size, clients: int, seconds: float) -> Load:
        """Batches as a server would form them of so many clients."""
        files = [str(path) for path in write_bodies(self.bodies, size, "file")]
        return parse_load(self._command({"files": files, "batch": min(MAX_BATCH, clients), "seconds": seconds}))

    def _command(self, command: dict[str, Any]) -> str:
        if self.pipe.stdin is None or self.pipe.stdout is None:
            raise ContenderError("its process was started without pipes")
        try:
            self.pipe.stdin.write(json.dumps(command) + "\n")
            self.pipe.stdin.flush()
            line = self.pipe.stdout.readline()
        except OSError as error:
            raise ContenderError(f"its process has ended: {error}") from error
        if not line:
            raise ContenderError("its process has ended")
        return line


def _contender(name: str, title: str, processes: int, threads: int) -> Contender:
    @contextmanager
    def start(site: Site) -> Iterator[InProcess]:
        command = [sys.executable, "-m", "benchmarks.serving.in_process", str(site.material.absolute()), INT8]
        command += [str(processes), str(threads)]
        site.log(name).parent.mkdir(parents=True, exist_ok=True)
        with open(site.log(name), "wb") as log:
            pipe = subprocess.Popen(
                command,
                cwd=ROOT,
                env=PASSIVE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        root = psutil.Process(pipe.pid)
        try:
            yield InProcess(root, pipe, site.work)
        finally:
            stop(root)
            pipe.wait()

    return Contender(name=name, title=title, kind="limit", start=start, reference=INT8)


_CORES = usable_cores()
CONTENDERS = (
    _contender(ONE_PROCESS, f"in process: 1 process, {_CORES} threads", 1, _CORES),
    _contender(MANY_PROCESSES, f"in process: {_CORES} processes, 1 thread each", _CORES, 1),
)
"""The better of both is the limit."""
