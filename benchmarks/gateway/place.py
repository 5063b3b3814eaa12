"""A gateway in a process of its own, ``marquee serve run``, and what can be done to it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aiohttp

from benchmarks import ROOT
from marquee.gateway.backend import Reply
from marquee.serving.record import Server, find
from marquee.serving.settings import Addresses

PATIENCE = 300.0
"""Seconds; what takes longer does not happen."""
REQUEST_SECONDS = 90.0
"""More than the gateway's own limit: a request without an answer by then is lost."""
MODEL = "digits"


@dataclass
class Place:
    """See the module.

    Args:
        store: of the archives, digits 1.0 and 2.0.
        state: folder of the server's files and of the log.
    """

    store: Path
    state: Path
    port: int = field(default_factory=lambda: Addresses.free().base_port)
    backend_port: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _session: aiohttp.ClientSession | None = None
    _log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The clients' connections; one for each request under way, kept for the next."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
        return self._session

    async def start(self) -> None:
        """Returns when the gateway is ready."""
        self.backend_port = self.backend_port or Addresses.free().base_port
        self.state.mkdir(parents=True, exist_ok=True)
        self._log = self._log or open(self.state / "benchmark.log", "ab")  # noqa: SIM115 - closed in `stop`
        command = [sys.executable, "-m", "marquee", "serve", "run", f"{MODEL}=1.0", "--store", str(self.store)]
        command += ["--state", str(self.state), "--port", str(self.backend_port), "--gateway", str(self.port)]
        command += ["--no-keys", "--enable-model-api"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)
        await self.until(self.is_ready)

    async def end(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, PATIENCE)

    async def stop(self) -> None:
        """Ends everything."""
        if self._process is not None and self._process.poll() is None:
            await self.end()
        if self._session is not None:
            await self._session.close()
        if self._log is not None:
            self._log.close()

    async def ask(self, body: bytes) -> Reply:
        """One prediction. A connection that is refused is a refusal: nothing was sent."""
        try:
            timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
            headers = {"Content-Type": "application/octet-stream"}
            url = f"{self.url}/predictions/{MODEL}"
            async with self.session.post(url, data=body, headers=headers, timeout=timeout) as answer:
                kept = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(status=answer.status, body=await answer.read(), headers=kept)
        except aiohttp.ClientConnectorError:
            return Reply(status=503, body=b"", headers={"retry-after": "1"})

    async def manage(self, method: str, path: str, **query: object) -> Any:
        """A request of the management API, through the gateway."""
        parameters = {name: str(value) for name, value in query.items()}
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with self.session.request(method, self.url + path, params=parameters, timeout=timeout) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status}: {await answer.text()}")
            return json.loads(await answer.read())

    async def is_ready(self) -> bool:
        """What a probe sees."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"the gateway has ended with {self._process.returncode}; see {self.state}")
        try:
            async with self.session.get(f"{self.url}/v2/health/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def pids(self) -> list[int]:
        """The workers of the default version that are READY, as TorchServe says."""
        try:
            (described,) = await self.manage("GET", f"/models/{MODEL}")
        except (RuntimeError, aiohttp.ClientError, ValueError):
            return []
        return [
            worker["pid"] for worker in described["workers"] if worker["status"] == "READY" and alive(worker["pid"])
        ]

    async def scale(self, workers: int) -> list[int]:
        """So many workers."""
        await self.manage("PUT", f"/models/{MODEL}", min_worker=workers, max_worker=workers, synchronous="true")
        return await self.ready(workers)

    async def ready(self, workers: int) -> list[int]:
        """The workers, once there are so many, and the gateway is ready."""

        async def found() -> list[int]:
            pids = await self.pids()
            return pids if len(pids) == workers and await self.is_ready() else []

        pids: list[int] = await self.until(found)
        return pids

    def server(self) -> Server:
        """TorchServe as it runs now."""
        found = find(self.state)
        if found is None:
            raise RuntimeError(f"no TorchServe runs from {self.state}")
        return found

    async def until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Waits for a condition, and returns what it gave."""
        deadline = time.monotonic() + seconds
        while not (found := await condition()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not happen in {seconds:.0f} s")
            await asyncio.sleep(0.1)
        return found


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status not in ("Z", "X")


def signal_to(pid: int, number: int) -> None:
    """Sends a signal to a process of the place."""
    os.kill(pid, number)
