"""The connections to one front end: kept alive, with its tokens and its certificate."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload
from yarl import URL

from marquee.gateway.backend import LostError, UnreachedError
from marquee.gateway.deadline import timeout as limit
from marquee.gateway.torchserve.refusals import TOKEN, read_refusal
from marquee.gateway.torchserve.target import Target
from marquee.gateway.torchserve.tokens import Tokens
from marquee.serving.keys import Kind

MOST_CONNECTIONS = 1_024
"""For predictions: each one under way has a connection of its own."""
MOST_MANAGEMENT_CONNECTIONS = 16
IDLE_SECONDS = 30.0
"""How long a connection without a request is kept."""
READ_BUFFER = 262_144
PIECE = 524_288
"""Bytes of a body that are written at a time, so that one large body does not hold up the others."""
_NOT_SENT = ("User-Agent", "Accept", "Accept-Encoding")


@dataclass(frozen=True)
class Answered:
    """An answer as it came."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Case-insensitive."""


class Link:
    """See the module.

    Args:
        target: the front end.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tokens = Tokens(target.keys)
        self._renewal = asyncio.Lock()
        secure = _context(target)
        # Predictions cannot take the connections from the watch.
        self._sessions: dict[Kind, aiohttp.ClientSession] = {
            "inference": _session(MOST_CONNECTIONS, secure),
            "management": _session(MOST_MANAGEMENT_CONNECTIONS, secure),
        }
        self._bases: dict[Kind, str] = {
            "inference": target.addresses.inference,
            "management": target.addresses.management,
        }
        self._url = lru_cache(maxsize=1_024)(self._make_url)

    async def close(self) -> None:
        """Gives up all connections; requests under way end with :class:`LostError`."""
        for session in self._sessions.values():
            await session.close()

    async def request(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        timeout: float,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answered:
        """One request with a token; if the token is refused, it is replaced, and the request is sent once more.

        Args:
            kind: which API.
            method: of HTTP.
            path: quoted, such as :func:`model_path` gives it.
            timeout: seconds until the answer has arrived.
            query: encoded.
            headers: beside the token.
            body: of the request.

        Raises:
            UnreachedError: nothing listens.
            LostError: no answer came.
        """
        try:
            async with limit(timeout):
                sent = self.tokens.header(kind)
                answered = await self._send(kind, method, path, query, {**(headers or {}), **sent}, body)
                if answered.status == 400 and self.tokens.renewable and is_token_refused(answered):
                    await self._renew(kind, sent)
                    sent = self.tokens.header(kind)
                    answered = await self._send(kind, method, path, query, {**(headers or {}), **sent}, body)
                return answered
        except asyncio.TimeoutError as error:
            raise LostError(f"no answer in {timeout:.3g} s") from error
        except aiohttp.ClientSSLError as error:
            raise UnreachedError(f"TorchServe does not show the certificate of its settings: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise UnreachedError(f"TorchServe does not listen: {error.os_error}") from error
        except RuntimeError as error:  # "Session is closed": this front end was given up meanwhile
            raise UnreachedError(f"the connection was given up: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(f"the connection broke off: {error or type(error).__name__}") from error

    async def _send(
        self, kind: Kind, method: str, path: str, query: str, headers: dict[str, str], body: bytes | None
    ) -> Answered:
        data = None if body is None else Body(body)
        async with self._sessions[kind].request(
            method, self._url(kind, path, query), data=data, headers=headers
        ) as got:
            return Answered(got.status, await got.read(), got.headers)

    async def _renew(self, kind: Kind, refused: Mapping[str, str]) -> None:
        """Has the server replace a token, unless somebody else has done so since it was refused."""
        async with self._renewal:
            if self.tokens.header(kind) != refused:
                return
            query = urlencode({"type": kind.lower()})
            answered = await self._send("management", "GET", "/token", query, dict(self.tokens.header("API")), None)
            if answered.status != 200:
                raise UnreachedError(f"TorchServe refuses {self.tokens}, and does not replace it: {answered.status}")

    def _make_url(self, kind: Kind, path: str, query: str) -> URL:
        return URL(f"{self._bases[kind]}{path}" + (f"?{query}" if query else ""), encoded=True)

    async def get_metrics(self, timeout: float) -> str:
        """What Prometheus reads at the front end, which asks for no token there.

        Raises:
            LostError: no answer came.
        """
        try:
            async with limit(timeout):
                url = f"{self.target.addresses.metrics}/metrics"
                async with self._sessions["management"].get(url) as got:
                    return await got.text("utf-8") if got.status == 200 else ""
        except (aiohttp.ClientError, OSError, RuntimeError, asyncio.TimeoutError) as error:
            raise LostError(f"no metrics: {error or type(error).__name__}") from error

    async def __aenter__(self) -> "Link":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def is_token_refused(answered: Answered) -> bool:
    """Whether the server refused the token: it is wrong, or has expired."""
    refusal = read_refusal(answered.status, answered.body)
    return refusal is not None and refusal.type in TOKEN


def model_path(prefix: str, name: str, version: str | None) -> str:
    """``/PREFIX/NAME[/VERSION]``, quoted."""
    return f"/{prefix}/{quote(name, safe='')}" + (f"/{quote(version, safe='')}" if version is not None else "")


class Body(BytesPayload):
    """Bytes that are written piece by piece. aiohttp's own class writes all at once, and warns of it above a MiB."""

    def __init__(self, content: bytes) -> None:
        super().__init__(b"")
        self._value, self._size = content, len(content)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Writes the content; see aiohttp."""
        size = self._size if content_length is None else min(content_length, self._size or 0)
        content = memoryview(self._value)
        if size is None or size <= PIECE:
            await writer.write(self._value)
            return
        for start in range(0, size, PIECE):
            await writer.write(content[start : min(start + PIECE, size)])


def _session(connections: int, secure: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=IDLE_SECONDS, ssl=secure),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),  # see Link.request
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_SENT,
        auto_decompress=False,
        trust_env=False,  # a proxy from the environment would receive the tokens
        read_bufsize=READ_BUFFER,
    )


def _context(target: Target) -> ssl.SSLContext | bool:
    """Exactly the certificate that the settings name; else one of a public authority."""
    return True if target.trust.certificate is None else target.trust.context()
