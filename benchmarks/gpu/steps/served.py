"""The served endpoint on the device: golden answers, 16 clients, two workers, and a GPU without memory."""

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.gpu.hog import all_memory_taken
from benchmarks.gpu.material import cpu_run, digits, quick_config
from benchmarks.gpu.server_guard import ends_with_us
from benchmarks.gpu.step import Report, Site
from marquee.serving.answers import Answer
from marquee.serving.archive import find_bundle, package
from marquee.serving.errors import OperationError
from marquee.serving.java import java_environment
from marquee.serving.keys import KeyFile
from marquee.serving.readiness import wait_for_workers
from marquee.serving.replay import Samples
from marquee.serving.settings import Addresses
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.verified import Service, start_verified
from marquee.training.core.run import train

_NAME = "digits"
_CLIENTS, _WORKERS = 16, 2
_MANY = 64
"""Images of a request; it does not fit in a GPU without free memory."""
_DOCUMENTED = "inference_failed"
"""Code of the answer to a request that the model could not be run for (docs/serving.md)."""


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A running server, and what it must answer."""

    service: Service
    samples: Samples

    def differences(self, ask: Callable[[str, bytes], Answer], requests: int) -> list[str]:
        """Sends golden samples from 16 clients at once; one line for every answer that is not the golden one."""

        def difference(request: int) -> str | None:
            number = request % len(self.samples.bodies)
            return self.samples.difference(number, ask(_NAME, self.samples.bodies[number]))

        with ThreadPoolExecutor(_CLIENTS) as clients:
            return [line for line in clients.map(difference, range(requests)) if line is not None]

    def workers(self) -> set[int]:
        """Their process IDs."""
        (described,) = self.service.client().describe(_NAME)
        return {worker["pid"] for worker in described["workers"]}

    def ready_on(self, device: str) -> int:
        """How often a worker has logged that it is ready on this device."""
        log = self.service.server.logs / "model_log.log"
        return log.read_text("utf-8", "replace").count(f" ready on {device}: ")

    def ask_for_many(self) -> Answer:
        """Asks for many images in one request."""
        images = islice(cycle(self.samples.bodies), _MANY)
        instances = [{"b64": base64.b64encode(image).decode()} for image in images]
        body = json.dumps({"instances": instances}).encode()
        return self.service.client().predict(_NAME, body, "application/json")


def run(site: Site, report: Report) -> None:
    """On a GPU the served images have 224 pixels, on the CPU 32."""
    try:
        java_environment()
    except OperationError as error:
        report.skip("TorchServe", str(error))
        return
    store, state = site.work / "store", site.work / "server"
    archive = package(find_bundle(_trained(site)), _NAME, "1.0", store)
    settings = {"number_of_gpu": "1"} if site.full else {}
    started = time.monotonic()
    with ends_with_us(state, report):
        port = Addresses.free().base_port
        with start_verified([_NAME], store=store, folder=state, port=port, settings=settings) as service:
            report.row("start, with golden answers", round(time.monotonic() - started, 1), "s")
            report.row("golden answers over REST and gRPC", service.checked, "equal", right=service.checked > 0)
            _report(site, report, _Served(service=service, samples=Samples.read(archive)))


def _trained(site: Site) -> Path:
    if not site.full:
        return cpu_run(site)
    config = quick_config(site, image={"size": 224}, loop={"epochs": 1})
    train(config, digits(site), site.work / "run", report=False)
    return site.work / "run"


def _report(site: Site, report: Report, served: _Served) -> None:
    with report.guard("workers"):
        _scale(site, report, served)
    client = served.service.client()
    for protocol, ask in (("REST", client.predict), ("gRPC", client.predict_grpc)):
        name = f"{_CLIENTS} clients over {protocol}"
        with report.guard(name):
            requests = _CLIENTS * (20 if site.full else 2)
            lines = served.differences(ask, requests)
            wanted, note = f"golden, all {requests}", lines[0] if lines else ""
            report.row(name, requests - len(lines), "answers", right=not lines, wanted=wanted, note=note)
    with report.guard("many images in one request"):
        answer = served.ask_for_many()
        wanted = f"{_MANY} answers"
        report.row("many images in one request", answer.error or "answered", right=answer.error is None, wanted=wanted)
    with report.guard("throughput"):
        _throughput(site, report, served)
    if site.full:
        with report.guard("out of memory"):
            _out_of_memory(report, served, torch.device("cuda", 0))
    else:
        report.skip("out of memory", "needs CUDA")


def _scale(site: Site, report: Report, served: _Served) -> None:
    """Two workers on one device; each logs where it is."""
    device = "cuda:0" if site.full else "cpu"
    client = served.service.client()
    client.scale(_NAME, _WORKERS)
    wait_for_workers(client, _NAME, _WORKERS)
    ready = served.ready_on(device)
    wanted = f"{_WORKERS}, each with equal golden answers"
    report.row(f"workers on {device}", ready, "ready", right=ready == _WORKERS, wanted=wanted)


def _throughput(site: Site, report: Report, served: _Served) -> None:
    server = served.service.server
    token = KeyFile(server.folder / "key_file.json").token("inference")
    endpoint = Endpoint.of_model(server.addresses.inference, _NAME, token)
    load = closed_loop(endpoint, served.samples.bodies, _CLIENTS, 5.0 if site.full else 0.5)
    report.row(
        "throughput", round(load.throughput, 1), "images/s", note=f"{_CLIENTS} clients, {_WORKERS} workers, REST"
    )


def _out_of_memory(report: Report, served: _Served, device: torch.device) -> None:
    """Takes all memory that is free while the workers run; gives it back."""
    before = served.workers()
    with all_memory_taken(device) as free:
        answers = [served.ask_for_many() for _ in range(2 * _WORKERS)]
    said = sorted({f"{answer.status} {answer.error}" for answer in answers})
    right = all(answer.status == 503 and (answer.error or "").startswith(_DOCUMENTED) for answer in answers)
    wanted, note = f"503 {_DOCUMENTED}", f"{free / 2**20:.0f} MiB were free"
    report.row("out of memory", "; ".join(said), right=right, wanted=wanted, note=note)
    after = served.ask_for_many()
    report.row("with memory again", after.error or "answered", right=after.error is None, wanted="answered")
    report.row("the same workers", "yes" if served.workers() == before else "no", right=served.workers() == before)
