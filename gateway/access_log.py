"""The access log: one line a request, over HTTP and gRPC alike, without anything secret.

``time=… peer=127.0.0.1:50122 key=0f3c… name=shop method=POST path=/v2/models/digits/infer protocol=HTTP/1.1 status=200
received=14022 sent=310 ms=12.4 id=…``: the notation that is called logfmt, or JSON. Neither headers nor what follows
the question mark of a URL is in it, and a key that somebody put into a path is hidden.
"""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Any, Literal

from marquee.gateway.access.caller import Caller
from marquee.gateway.access.failures import Failures
from marquee.gateway.access.keys import hide_keys

Notation = Literal["logfmt", "json", "none"]
LOGGER = "marquee.gateway.access"
"""Nothing else is logged under this name, so that the lines can be sent elsewhere, or left out, on their own."""
_LONGEST = 256
_REFUSED = ("401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED")
_PLAIN = re.compile(r"[!#-<>-~]+")
"""ASCII without spaces, quotes and the equals sign."""

log = logging.getLogger(LOGGER)

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One request."""

    peer: str
    """``HOST:PORT`` that it came from; that of a proxy where there is one."""
    method: str
    """Of HTTP; ``-`` over gRPC."""
    path: str
    """Without the query; over gRPC ``/SERVICE/METHOD``."""
    protocol: str
    """``HTTP/1.1``, ``gRPC``."""
    status: str
    """Of HTTP, such as ``200``, or the name of the gRPC status, such as ``OK``; ``-``: the client had gone."""
    received: int
    """Bytes of the body."""
    sent: int
    """Bytes of the answer's body."""
    seconds: float
    """From the first byte of the request to the last of the answer."""
    request_id: str | None = None
    caller: Caller | None = None
    """None, or a caller without a key: somebody who sent none, or one that was refused."""

    def document(self) -> dict[str, Any]:
        """What is logged; texts are as long as is sensible, and keys are hidden."""
        caller = self.caller
        return {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "peer": _shorten(self.peer),
            "key": caller.key_id if caller else None,
            "name": caller.name if caller and caller.key_id else None,
            "method": _shorten(self.method),
            "path": _shorten(self.path),
            "protocol": _shorten(self.protocol),
            "status": int(self.status) if self.status.isdecimal() else self.status,
            "received": self.received,
            "sent": self.sent,
            "ms": round(1_000 * self.seconds, 1),
            "id": None if self.request_id is None else _shorten(self.request_id),
        }


class Lines:
    """Writes entries."""

    def __init__(self) -> None:
        self._failures = Failures()

    def write(self, entry: Entry) -> None:
        """Logs one request, and a refusal for want of a key once more, as a warning."""
        if entry.status in _REFUSED:
            host = entry.peer.rpartition(":")[0] or entry.peer
            self._failures.note(host, f"{entry.status} {_quote(_shorten(entry.path))}")
        if log.isEnabledFor(logging.INFO):
            document = entry.document()
            line = " ".join(f"{name}={_quote(value)}" for name, value in document.items())
            log.info("%s", line, extra={"access": document})

    def write_rpc(
        self,
        path: str,
        status: str,
        *,
        peer: str,
        received: int,
        sent: int,
        seconds: float,
        caller: Caller | None = None,
        request_id: str | None = None,
    ) -> None:
        """Logs one call of gRPC.

        Args:
            path: ``/SERVICE/METHOD``.
            status: name of the gRPC status.
            peer: as ``grpc.ServicerContext.peer`` gives it, such as ``ipv4:127.0.0.1:50122``.
            received: bytes of the request's message.
            sent: bytes of the answer's message.
            seconds: from the call to the answer.
            caller: None: it was refused.
            request_id: of the metadata ``x-request-id``.
        """
        kind, _, address = peer.partition(":")
        address = address.replace("%5B", "[").replace("%5D", "]") if kind in ("ipv4", "ipv6") else peer
        self.write(
            Entry(
                peer=address,
                method="-",
                path=path,
                protocol="gRPC",
                status=status,
                received=received,
                sent=sent,
                seconds=seconds,
                request_id=request_id,
                caller=caller,
            )
        )


LINES = Lines()
"""Of this process: HTTP and gRPC share it, so that lines about refusals are limited together."""


class JsonLines(logging.Formatter):
    """Formats a record of the access log as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document = getattr(record, "access", None)
        return json.dumps(document if document is not None else {"message": record.getMessage()})


def log_to(stream: IO[str], notation: Notation = "logfmt") -> None:
    """Writes the access log to a stream of its own, in place of where the rest is logged.

    Args:
        stream: such as ``sys.stdout``.
        notation: of the lines; ``none``: no lines are written. Warnings about refused keys are logged elsewhere.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if notation == "json" else logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if notation == "none" else logging.INFO)


class AccessLog:
    """An ASGI middleware. It has to be outside of everything that may answer.

    Args:
        app: what answers. Its ``state`` has the ``caller`` and, as far as its answer has none, the ``request_id``.
        lines: writes them.
    """

    def __init__(self, app: _App, lines: Lines = LINES) -> None:
        self._app = app
        self._lines = lines

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Passes a request on, and logs it when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        status, request_id, received, sent, begin = "-", None, 0, 0, time.perf_counter()

        async def counted_receive() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
            return message

        async def counted_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status, request_id, sent
            if message["type"] == "http.response.start":
                status, request_id = str(message["status"]), _request_id(message)
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted_receive, counted_send)
        except Exception:
            status = "500" if status == "-" else status
            raise
        finally:
            self._lines.write(
                Entry(
                    peer=_peer(scope),
                    method=scope["method"],
                    path=scope["path"],
                    protocol=f"HTTP/{scope.get('http_version', '1.1')}",
                    status=status,
                    received=received,
                    sent=sent,
                    seconds=time.perf_counter() - begin,
                    request_id=request_id or state.get("request_id"),
                    caller=state.get("caller"),
                )
            )


def _peer(scope: _Scope) -> str:
    host, port = scope.get("client") or ("-", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _request_id(start: MutableMapping[str, Any]) -> str | None:
    for name, value in start.get("headers", ()):
        if name.lower() == b"x-request-id":
            return bytes(value).decode("latin-1")
    return None


def _shorten(text: str) -> str:
    text = hide_keys(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _quote(value: Any) -> str:
    """A value of logfmt: nothing in it can end it, or the line."""
    text = "-" if value is None else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
