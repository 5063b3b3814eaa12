"""This project: its archive on TorchServe, started as scripts/serve.py starts it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from benchmarks import ROOT
from benchmarks.serving.bodies import Size, write_bodies
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.errors import ContenderError
from benchmarks.serving.load import Load, parse_load
from benchmarks.serving.material import FP32, INT8
from benchmarks.serving.servers import RestServer, bearer, likeliest
from marquee.handlers.host import usable_cores
from marquee.serving import server
from marquee.serving.archive import package
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.model_config import update_model_config
from marquee.serving.settings import Addresses

MARQUEE, WORKER_A_CORE = "marquee-int8", "marquee-int8-workers"


@dataclass(frozen=True)
class GrpcServer:
    """A :class:`benchmarks.serving.servers.Server` that is asked over gRPC, by threads of a Python process."""

    process: psutil.Process
    running: server.Server
    name: str
    bodies: Path

    def ask(self, photograph: bytes) -> str:
        """See :class:`benchmarks.serving.servers.Server`."""
        try:
            return likeliest(self.running.client().predict_grpc(self.name, photograph).body)
        except OperationError as error:
            raise ContenderError(str(error)) from error

    def load(self, size: Size, clients: int, seconds: float) -> Load:
        """See :class:`benchmarks.serving.servers.Server`."""
        command = [sys.executable, "-m", "benchmarks.serving.grpc_load", str(self.running.folder), self.name]
        command += [str(clients), str(seconds), *map(str, write_bodies(self.bodies, size, "file"))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ContenderError(f"the gRPC load ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
        return parse_load(done.stdout)


def _contender(
    name: str, title: str, variant: str, protocol: Literal["REST", "gRPC"] = "REST", workers: int | None = None
) -> Contender:
    def prepare(site: Site) -> None:
        """Packages the bundle with the handlers as they are now."""
        archive = package(site.material / "bundle", name, "1.0", site.store, variant)
        if workers is not None:
            update_model_config(archive, {"minWorkers": workers, "maxWorkers": workers})

    @contextmanager
    def start(site: Site) -> Iterator[RestServer | GrpcServer]:
        port = Addresses.free().base_port
        try:
            running = server.start(
                [name], config=ROOT / "config.properties", store=site.store, folder=site.state(name), port=port
            )
        except OperationError as error:
            raise ContenderError(str(error)) from error
        try:
            process = psutil.Process(running.pid)
            if protocol == "gRPC":
                yield GrpcServer(process, running, name, site.work.absolute())
            else:
                yield RestServer(
                    process=process,
                    url=f"{running.addresses.inference}/predictions/{name}",
                    bodies=site.work,
                    authorization=bearer(KeyFile(running.folder / "key_file.json")),
                )
        finally:
            server.stop(running)

    return Contender(
        name=name,
        title=title,
        kind="marquee",
        start=start,
        reference=variant,
        needs=("openvino",) if variant == INT8 else (),
        prepare=prepare,
    )


CONTENDERS = (
    _contender(MARQUEE, "Marquee, openvino-int8", INT8),
    _contender(WORKER_A_CORE, "Marquee, openvino-int8, a worker a core", INT8, workers=usable_cores()),
    _contender("marquee-int8-grpc", "the same over gRPC (Python client)", INT8, "gRPC"),
    _contender("marquee-fp32", "Marquee, fp32", FP32),
)
