"""The gateway in front of the archive of :mod:`benchmarks.serving.contenders.marquee`, started as a user starts it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks import ROOT
from benchmarks.serving.contenders.base import Contender, Site, free_port
from benchmarks.serving.contenders.marquee import MARQUEE, package_for
from benchmarks.serving.material import INT8
from benchmarks.serving.processes import ContenderError, last_line
from benchmarks.serving.servers import RestServer
from marquee.gateway.access.keys import KEYS_FILE, KeyStore
from marquee.serving.settings import Addresses

GATEWAY, GATEWAY_V2 = "marquee-int8-gateway", "marquee-int8-gateway-v2"


class Gateway(psutil.Process):
    """The gateway's process, with TorchServe's among its descendants.

    TorchServe's launcher ends once it has started Java, so the system does not know that they belong together.

    Args:
        pid: of the gateway.
        host: of TorchServe's front end.
    """

    def __init__(self, pid: int, host: int) -> None:
        super().__init__(pid)
        self._host = psutil.Process(host)

    def children(self, recursive: bool = False) -> list[psutil.Process]:
        """Those of both, each once."""
        own = super().children(recursive)
        try:
            host = [self._host, *self._host.children(recursive)]
        except psutil.NoSuchProcess:
            host = []
        return [*own, *(process for process in host if process not in own)]


def _serve(site: Site, name: str, arguments: Sequence[str]) -> str:
    """Runs ``marquee serve`` and returns what it prints.

    Raises:
        ContenderError: it exits with another code than 0.
    """
    command = [sys.executable, "-m", "marquee", "serve", *arguments, "--state", str(site.state(name))]
    with open(site.log(name), "ab") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, check=False)
    if done.returncode:
        raise ContenderError(f"marquee serve {arguments[0]} exits with {done.returncode}: {last_line(site.log(name))}")
    return done.stdout.decode()


def _contender(name: str, title: str, route: str, form: str) -> Contender:
    @contextmanager
    def start(site: Site) -> Iterator[RestServer]:
        state = site.state(name)
        shutil.rmtree(state, ignore_errors=True)  # logs and keys of an earlier start
        state.mkdir(parents=True)
        key = KeyStore(state / KEYS_FILE).add("benchmark")
        command = ["start", MARQUEE, "--json", "--store", str(site.store), "--config", str(ROOT / "config.properties")]
        command += ["--port", str(Addresses.free().base_port), "--gateway", str(free_port())]
        command += ["--gateway-grpc", str(free_port())]
        facts: dict[str, Any] = json.loads(_serve(site, name, command))
        try:
            process = Gateway(facts["gateway"]["pid"], facts["pid"])
            url = f"{facts['gateway']['http']}{route}"
            yield RestServer(process=process, url=url, form=form, token=lambda: key)
        finally:
            _serve(site, name, ["stop"])

    def prepare(site: Site) -> None:
        """The same archive as without a gateway."""
        package_for(site, MARQUEE, INT8)

    return Contender(
        name=name,
        title=title,
        kind="marquee",
        start=start,
        reference=INT8,
        needs=("openvino", "starlette", "uvicorn", "aiohttp", "limits"),
        prepare=prepare,
    )


_V2 = f"/v2/models/{MARQUEE}/infer"
CONTENDERS = (
    _contender(GATEWAY, "Marquee, openvino-int8, through the gateway", f"/predictions/{MARQUEE}", "file"),
    _contender(GATEWAY_V2, "the same by v2 with binary tensors", _V2, "v2-binary"),
)
