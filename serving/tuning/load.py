"""A load generator over REST, in one thread: what an endpoint answers, how fast, and what it refuses.

On the machine of the server, the generator takes time from it. Therefore requests are prepared in advance, connections
stay open, and only the status and the length of an answer are parsed.
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
"""After this time a request counts as failed."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_RETRY_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    path: str
    """For example ``/predictions/photos``."""
    token: str | None = None
    """Access token; None for a server that needs none."""

    @classmethod
    def of_model(cls, inference: str, name: str, token: str | None) -> "Endpoint":
        """The endpoint of the model ``name`` on the inference address ``http://host:port``."""
        parts = urlsplit(inference)
        path = f"/predictions/{quote(name, safe='')}"
        return cls(host=parts.hostname or "127.0.0.1", port=parts.port or 80, path=path, token=token)

    def request(self, body: bytes) -> bytes:
        """The bytes of a complete POST request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {len(body)}"]
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


@dataclass(frozen=True, kw_only=True)
class Load:
    """The result of some seconds of load."""

    seconds: float
    """How long requests were sent."""
    sent: int
    """Number of requests that were sent."""
    throughput: float
    """Answers with status 200 per second, counting those that came within ``seconds``."""
    latencies: dict[int, np.ndarray]
    """HTTP status -> float64 (N,), seconds of each answer, in the order in which they came."""
    failures: dict[str, int] = field(default_factory=dict)
    """``timeout`` or ``connection`` -> requests without an answer."""

    @property
    def answered(self) -> int:
        """Number of answers with status 200."""
        return self.count(200)

    @property
    def rejected(self) -> int:
        """Number of answers with status 503: the server's queue is full, or there is no worker."""
        return self.count(503)

    @property
    def errors(self) -> int:
        """Number of requests without an answer, or with a status other than 200 and 503."""
        unexpected = sum(len(values) for status, values in self.latencies.items() if status not in (200, 503))
        return unexpected + sum(self.failures.values())

    def count(self, status: int) -> int:
        """Number of answers with this status."""
        return len(self.latencies.get(status, ()))

    def percentile_ms(self, percent: float, status: int = 200) -> float:
        """Latency that ``percent`` % of the answers with this status do not exceed; NaN when there are none."""
        values = self.latencies.get(status)
        return float("nan") if values is None else 1000 * float(np.percentile(values, percent))


def closed_loop(endpoint: Endpoint, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Generates load with ``clients`` that each send the next request when the last one is answered.

    Args:
        endpoint: where to send requests.
        bodies: request bodies, sent in turn.
        clients: number of connections.
        seconds: how long new requests are sent; the answers to those already sent are then awaited.

    Raises:
        OperationError: nothing listens at the endpoint.
    """
    generator = _Generator(endpoint, bodies)
    asyncio.run(generator.closed(clients, seconds))
    return generator.load()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one pending request."""

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
            ConnectionError: the connection was closed, or the answer is not HTTP with a length.
            TimeoutError: there was no answer in time.
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
        """Closes the connection."""
        self.usable = False
        self._transport.close()

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class _Generator:
    """Sends requests and records the answers."""

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
        # Connections are opened before the clock starts.
        self._idle = [await self._connect() for _ in range(clients)]
        self._seconds, self._until = seconds, time.perf_counter() + seconds
        await asyncio.gather(*(self._client() for _ in range(clients)))
        self._close()

    def load(self) -> Load:
        """What has been recorded."""
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
                await asyncio.sleep(_RETRY_SECONDS)  # instead of a thousand retries a second when the server is gone

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
