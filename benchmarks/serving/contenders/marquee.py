"""This project: its archive on TorchServe, started as marquee serve starts it."""

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from benchmarks import ROOT
from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.material import FP32, INT8
from benchmarks.serving.processes import ContenderError
from benchmarks.serving.servers import Load, RestServer, likeliest
from marquee.handlers.core.host import usable_cores
from marquee.serving import server
from marquee.serving.archive import package
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.model_config import update_model_config
from marquee.serving.settings import Addresses

MARQUEE, WORKER_A_CORE = "marquee-int8", "marquee-int8-workers"


@dataclass(frozen=True)
class GrpcServer:
    """A :class:`benchmarks.serving.servers.Server` that is asked over gRPC, by threads of this process."""

    process: psutil.Process
    running: server.Server
    name: str

    def ask(self, photograph: Path) -> str:
        """See :class:`benchmarks.serving.servers.Server`."""
        try:
            return likeliest(self.running.client().predict_grpc(self.name, photograph.read_bytes()).body)
        except OperationError as error:
            raise ContenderError(str(error)) from error

    def load(self, photographs: Sequence[Path], clients: int, seconds: float) -> Load:
        """See :class:`benchmarks.serving.servers.Server`."""
        client, bodies = self.running.client(), itertools.cycle([path.read_bytes() for path in photographs])
        client.predict_grpc(self.name, next(bodies))  # the connection is no part of the load
        began = time.perf_counter()

        def ask(_: int) -> list[float]:
            latencies = []
            while (before := time.perf_counter()) < began + seconds:
                answer = client.predict_grpc(self.name, next(bodies))
                latencies.append(float("nan") if answer.error else time.perf_counter() - before)
            return latencies

        with ThreadPoolExecutor(clients) as threads:
            latencies = np.concatenate([*threads.map(ask, range(clients))])
        good = latencies[~np.isnan(latencies)]
        return Load(seconds=time.perf_counter() - began, latencies=good, errors=len(latencies) - len(good))


def package_for(site: Site, name: str, variant: str) -> Path:
    """Packages the bundle with the handlers as they are now."""
    return package(site.material / "bundle", name, "1.0", site.store, variant)


def _contender(
    name: str, title: str, variant: str, protocol: Literal["REST", "gRPC"] = "REST", workers: int | None = None
) -> Contender:
    def prepare(site: Site) -> None:
        """Packages the bundle, with other workers where they are given."""
        archive = package_for(site, name, variant)
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
                yield GrpcServer(process, running, name)
            else:
                yield RestServer(
                    process=process,
                    url=f"{running.addresses.inference}/predictions/{name}",
                    token=partial(KeyFile(running.folder / "key_file.json").token, "inference"),
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
