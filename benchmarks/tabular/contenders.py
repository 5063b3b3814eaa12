"""Those that serve the same regression: this project's archive on TorchServe, and the peer behind FastAPI."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import requests

from benchmarks import ROOT
from benchmarks.serving.contenders.base import free_port
from benchmarks.serving.processes import ContenderError, started
from benchmarks.serving.servers import Post
from benchmarks.tabular.place import Place
from marquee.handlers.core.host import usable_cores
from marquee.serving import server
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.settings import Addresses

MARQUEE, FASTAPI, FASTAPI_WORKERS = "marquee", "fastapi", "fastapi-workers"
TITLES = {
    MARQUEE: "Marquee on TorchServe",
    FASTAPI: "FastAPI, scikit-learn Ridge",
    FASTAPI_WORKERS: "FastAPI, scikit-learn Ridge, a process a core",
}
"""Contender -> its name in tables."""
_JSON = "application/json"
_ANSWER_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Site:
    """Folders of the benchmark."""

    work: Path
    """Everything below it."""
    archive: str = "penguins"
    """Name of the archive, and of the model on the server."""
    target: str = "body_mass_g"
    """Column that is predicted."""

    @property
    def data(self) -> Path:
        """The rows."""
        return self.work / "penguins.csv"

    @property
    def run(self) -> Path:
        """This project's run."""
        return self.work / "run"

    @property
    def store(self) -> Path:
        """Model archives."""
        return self.work / "store"

    def state(self, name: str) -> Path:
        """A contender's own folder."""
        return self.work / "state" / name

    def log(self, name: str) -> Path:
        """What a contender says."""
        return self.state(name) / "benchmark.log"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A contender that has been started."""

    process: psutil.Process
    """The root of its processes."""
    url: str
    """Where rows are sent."""
    token: Callable[[], str | None] = lambda: None
    """Asked for at each use: a server writes its tokens while it starts."""

    def endpoint(self) -> Post:
        """For the load generator."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or 80
        return Post(host=host, port=port, path=parts.path, token=self.token(), content_type=_JSON)

    def ask(self, body: bytes) -> list[float]:
        """The numbers of one answer.

        Raises:
            ContenderError: there is none.
        """
        session, headers = requests.Session(), {"Content-Type": _JSON}
        session.trust_env = False  # a proxy cannot reach this machine's loopback
        try:
            if token := self.token():
                headers["Authorization"] = f"Bearer {token}"
            response = session.post(self.url, data=body, headers=headers, timeout=_ANSWER_SECONDS)
        except (requests.RequestException, OperationError) as error:
            raise ContenderError(f"no answer from {self.url}: {error}") from error
        if response.status_code != 200:
            raise ContenderError(f"{self.url}: status {response.status_code}: {response.text[:200]}")
        return [_number(answer) for answer in response.json()["predictions"]]


def _number(answer: Any) -> float:
    """Of this project's answer for a row, or of the peer's, which is the number."""
    return float(answer["value"] if isinstance(answer, dict) else answer)


@contextmanager
def _marquee(site: Site) -> Iterator[Running]:
    """The archive as it is packaged."""
    state = site.state(MARQUEE)
    try:
        running = server.start(
            [site.archive],
            config=ROOT / "config.properties",
            store=site.store,
            folder=state,
            port=Addresses.free().base_port,
        )
    except OperationError as error:
        raise ContenderError(str(error)) from error
    try:
        yield Running(
            process=psutil.Process(running.pid),
            url=f"{running.addresses.inference}/predictions/{site.archive}",
            token=partial(KeyFile(running.folder / "key_file.json").token, "inference"),
        )
    finally:
        server.stop(running)


@contextmanager
def _fastapi(name: str, workers: int, site: Site) -> Iterator[Running]:
    """The peer, which fits its pipeline when it starts."""
    place = Place(port=free_port(), workers=workers, data=str(site.data), target=site.target)
    command = [sys.executable, "-m", "benchmarks.tabular.peer_app"]
    # Threads of several processes would wait for each other.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if workers > 1 else {}
    with started(command, ROOT, site.log(name), place.as_environment() | threads) as process:
        yield Running(process=process, url=f"http://127.0.0.1:{place.port}/predict")


CONTENDERS: dict[str, Callable[[Site], AbstractContextManager[Running]]] = {
    MARQUEE: _marquee,
    FASTAPI: partial(_fastapi, FASTAPI, 1),
    FASTAPI_WORKERS: partial(_fastapi, FASTAPI_WORKERS, usable_cores()),
}
"""In the order of a round."""
