"""A private TorchServe for trials, with its own ports, tokens, state and store: a running server is not touched."""

import itertools
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from marquee.handlers.core.worker_config import CONFIG_FILE
from marquee.serving import server as servers
from marquee.serving.archive import copy_archive
from marquee.serving.client import Client
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile
from marquee.serving.model_config import changed_config
from marquee.serving.processes import WorkerDeaths, worker_pids
from marquee.serving.readiness import wait_until_ready
from marquee.serving.settings import Addresses
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.tuning.space import Value

logger = logging.getLogger(__name__)

_FIRST_PORT = 24_100
_PLAIN = Addresses()
"""Loopback, without TLS: what is measured is the server, whatever its addresses will be."""
MAX_WARM_SECONDS = 30.0
_WARM_SECONDS = 2.0
_RISE = 1.03
_FLAT_SECONDS = 2
_REFUSED_BODY = b"\0"
_LOAD_SECONDS = 300.0
_MODEL_WARM_SECONDS = 1.0


class PrivateServer:
    """Serves an archive with several settings at once, each as a model with its own name.

    Args:
        server: a running server without models.
        archive: the archive to try.
        store: the server's folder of archives.
        bodies: bodies of real requests, to warm models up.
        clients: number of concurrent requests.
    """

    def __init__(
        self, server: servers.Server, archive: Path, store: Path, bodies: Sequence[bytes], clients: int
    ) -> None:
        self._server, self._archive, self._store = server, archive, store
        self._bodies, self._clients = bodies, clients
        self._names = (f"trial{number}" for number in itertools.count())
        self._is_warm = False

    def is_running(self) -> bool:
        """True while the server lives."""
        return self._server.is_running()

    @contextmanager
    def model(self, config: Mapping[str, Value], workers: int) -> Iterator[Endpoint]:
        """Serves the archive with these keys of ``model-config.yaml``, warmed up, until the end of the block.

        Raises:
            OperationError: the model is refused, or its workers do not start.
        """
        name, client = next(self._names), self._server.client()
        copy = self._store / f"{name}.mar"
        log = self._server.logs / "model_log.log"
        log_start = log.stat().st_size if log.is_file() else 0
        try:
            # A queue that a closed loop cannot fill, so that no request is refused.
            text = changed_config(self._archive, {"jobQueueSize": max(100, 2 * self._clients), **config})
            copy_archive(self._archive, copy, CONFIG_FILE, text.encode("utf-8"))
            deaths = WorkerDeaths(self._server.pid, worker_pids(self._server.pid))
            client.register(copy.name, workers, name, wait=False)
            try:
                deadline = time.monotonic() + _LOAD_SECONDS
                wait_until_ready(self._server, name, deadline, workers=workers, log_start=log_start, deaths=deaths)
            except OperationError as error:
                raise OperationError(str(error).removeprefix(f"{name} is not served: ")) from error
            endpoint = self._endpoint(client, name)
            self._warm(endpoint)
            yield endpoint
        finally:
            copy.unlink(missing_ok=True)
            with suppress(OperationError):  # refused, or the server has ended
                client.unregister(name)

    def _endpoint(self, client: Client, name: str) -> Endpoint:
        keys = KeyFile(self._server.folder / "key_file.json")
        token = keys.token("inference") if self._server.authorized else None
        return Endpoint.of_model(client.addresses.inference, name, token)

    def _warm(self, endpoint: Endpoint) -> None:
        """The front end is several times slower in its first thousands of requests, an engine in its first batches."""
        if not self._is_warm:
            # The handler refuses these at once, so that only the front end and the way to the worker take time.
            closed_loop(endpoint, [_REFUSED_BODY], self._clients, _WARM_SECONDS)
            warm_up(endpoint, self._bodies, self._clients, MAX_WARM_SECONDS)
            self._is_warm = True
        closed_loop(endpoint, self._bodies, self._clients, _MODEL_WARM_SECONDS)


def warm_up(endpoint: Endpoint, bodies: Sequence[bytes], clients: int, seconds: float) -> None:
    """Sends real requests until throughput has not risen for two seconds in a row, for at most ``seconds``.

    The Java virtual machine goes on compiling the code that runs often: with a fast model, a front end that has just
    started reaches half of the throughput that it reaches a minute later.
    """
    deadline, best, flat_seconds = time.monotonic() + seconds, 0.0, 0
    while flat_seconds < _FLAT_SECONDS and time.monotonic() < deadline:
        throughput = closed_loop(endpoint, bodies, clients, 1.0).throughput
        flat_seconds = 0 if throughput > _RISE * best else flat_seconds + 1
        best = max(best, throughput)


@contextmanager
def private_server(
    archive: Path,
    config: Path,
    folder: Path,
    bodies: Sequence[bytes],
    clients: int,
) -> Iterator[PrivateServer]:
    """Starts a private server with the settings of ``config``, and stops it at the end of the block.

    Args:
        archive: the archive to try.
        config: TorchServe settings.
        folder: the server's state folder. A server that is left there by an earlier, killed call is stopped first.
        bodies: bodies of real requests.
        clients: number of concurrent requests.

    Raises:
        OperationError: it cannot be started.
    """
    if leftover := servers.find(folder):
        logger.info(f"stopping pid {leftover.pid}, which an earlier call left behind")
        servers.stop(leftover)
    elif left := servers.stop_left_over(folder):
        logger.info(f"stopped {left}, which an earlier call left behind")
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    try:
        store.mkdir(parents=True)
        server = servers.start(
            [],
            config=config,
            store=store,
            folder=folder,
            port=Addresses.free(_FIRST_PORT).base_port,
            settings={
                **_PLAIN.as_properties(),
                "load_models": "",
                "enable_model_api": "true",
                "enable_grpc_ssl": "false",
            },
        )
        try:
            yield PrivateServer(server, archive, store, bodies, clients)
        finally:
            servers.stop(server)
    finally:
        shutil.rmtree(store, ignore_errors=True)
