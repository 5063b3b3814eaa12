"""Load on an endpoint, over REST, from one thread: what it answers, how fast, and what it refuses.

On a machine that also serves, the generator takes time from the server. So: prepared requests, connections that stay
open, and no more of an answer read than its status and length.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote, urlsplit

import numpy as np

from marquee.serving.errors import OperationError

TIMEOUT_SECONDS = 60.0
"""After which an answer counts as lost."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_RETRY_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    path: str
    """Such as ``/predictions/photos``."""
    token: str | None = None
    """Access token; None where the server wants none."""

    @classmethod
    def of_model(cls, inference: str, name: str, token: str | None) -> "Endpoint":
        """The endpoint of the model ``name`` on the inference address ``http://host:port``."""
        parts = urlsplit(inference)
        path = f"/predictions/{quote(name, safe='')}"
        return cls(host=parts.hostname or "127.0.0.1", port=parts.port or 80, path=path, token=token)

    def request(self, body: bytes) -> bytes:
        """The bytes of a whole POST request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


@dataclass(frozen=True, kw_only=True)
class Load:
    """What came of some seconds of load."""

    seconds: float
    """For which requests were sent."""
    sent: int
    """Requests."""
    throughput: float
    """Answers of status 200 a second, of those that came within ``seconds``."""
    latencies: dict[int, np.ndarray]
    """HTTP status -> float64 (N,), seconds of each answer, in the order in which they came."""
    failures: dict[str, int] = field(default_factory=dict)
    """``timeout`` or ``connection`` -> requests without an answer."""

    @property
    def answered(self) -> int:
        """Answers of status 200."""
        return self.count(200)

    @property
    def rejected(self) -> int:
        """Answers of status 503: the server's queue is full, or a worker is not there."""
        return self.count(503)

    @property
    def errors(self) -> int:
        """Requests that got no answer, or another one than 200 and 503."""
        other = sum(len(values) for status, values in self.latencies.items() if status not in (200, 503))
        return other + sum(self.failures.values())

    def count(self, status: int) -> int:
        """Answers of this status."""
        return len(self.latencies.get(status, ()))

    def percentile_ms(self, percent: float, status: int = 200) -> float:
        """Latency that ``percent`` % of the answers of this status do not exceed; NaN when there are none."""
        values = self.latencies.get(status)
        return float("nan") if values is None else 1000 * float(np.percentile(values, percent))


def closed_loop(endpoint: Endpoint, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Load of ``clients`` that each send their next request when the last one is answered.

    Args:
        endpoint: where to.
        bodies: of requests, sent in turn.
        clients: connections.
        seconds: for which new requests are sent; those that are under way then are waited for.

    Raises:
        OperationError: nothing listens there.
    """
    generator = _Generator(endpoint, bodies)
    asyncio.run(generator.closed(clients, seconds))
    return generator.load()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one request under way."""

    def __init__(self) -> None:
        self.usable = False
        self._transport: asyncio.Transport  # from connection_made on, which comes before everything else
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = cast(asyncio.Transport, transport), True

    async def ask(self, request: bytes) -> int:
        """Sends a request and returns the status of its answer.

        Raises:
            ConnectionError: the connection ended, or what came is no answer.
            TimeoutError: nothing came.
        """
        loop = asyncio.get_running_loop()
        self._buffer, self._answer = b"", loop.create_future()
        expiry = loop.call_later(TIMEOUT_SECONDS, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            expiry.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = _LENGTH.search(head)
        if length is None or not head[9:12].isdigit():
            self._fail(ConnectionError("no HTTP answer with a length"))
        elif len(self._buffer) >= end + 4 + int(length[1]):
            # TorchServe closes the connection after an error; a request on it would be lost.
            self.usable = int(head[9:12]) < 400 and b"connection: close" not in head
            if not self.usable:
                self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Ends the connection."""
        self.usable = False
        self._transport.close()

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class _Generator:
    """Sends requests and keeps what came of them."""

    def __init__(self, endpoint: Endpoint, bodies: Sequence[bytes]) -> None:
        self._endpoint = endpoint
        self._requests = itertools.cycle([endpoint.request(body) for body in bodies])
        self._idle: list[_Connection] = []
        self._sent, self._in_time = 0, 0
        self._seconds, self._until = 0.0, 0.0
        self._latencies: dict[int, list[float]] = {}
        self._failures: dict[str, int] = {}

    async def closed(self, clients: int, seconds: float) -> None:
        """See :func:`closed_loop`."""
        # Connected before the clock runs.
        self._idle = [await self._connect() for _ in range(clients)]
        self._seconds, self._until = seconds, time.perf_counter() + seconds
        await asyncio.gather(*(self._client() for _ in range(clients)))
        self._close()

    def load(self) -> Load:
        """What has been kept."""
        return Load(
            seconds=self._seconds,
            sent=self._sent,
            throughput=self._in_time / self._seconds,
            latencies={status: np.array(values) for status, values in self._latencies.items()},
            failures=self._failures,
        )

    async def _client(self) -> None:
        while (now := time.perf_counter()) < self._until:
            if not await self._ask(now):
                await asyncio.sleep(_RETRY_SECONDS)  # a server that is gone is not asked a thousand times a second

    async def _ask(self, since: float) -> bool:
        """One request; its latency counts from ``since``. False when no answer came."""
        self._sent += 1
        try:
            connection = self._take_idle() or await self._connect()
            status = await connection.ask(next(self._requests))
        except TimeoutError:
            self._note_failure("timeout")
            return False
        except (OSError, OperationError):
            self._note_failure("connection")
            return False
        now = time.perf_counter()
        self._latencies.setdefault(status, []).append(now - since)
        self._in_time += status == 200 and now <= self._until
        if connection.usable:
            self._idle.append(connection)
        return True

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:  # the server may have closed it since
                return connection
        return None

    async def _connect(self) -> _Connection:
        host, port = self._endpoint.host, self._endpoint.port
        try:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port)
        except OSError as error:
            raise OperationError(f"no answer from {host}:{port}: {error.strerror or error}") from error
        return connection

    def _note_failure(self, kind: str) -> None:
        self._failures[kind] = self._failures.get(kind, 0) + 1

    def _close(self) -> None:
        for connection in self._idle:
            connection.close()
