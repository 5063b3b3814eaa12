"""The access log: what is in a line, and what never is. A real server, and clients that write what they like."""

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from marquee.gateway import access_log
from marquee.gateway.access.caller import Caller
from marquee.gateway.access_log import AccessLog, JsonLines, Lines, log_to

SHOP = Caller(name="shop", key_id="0123abcd", scopes=frozenset({"predict"}))
FIELDS = "time peer key name method path protocol status received sent ms id".split()
KEY = "marquee_0123abcd_" + "5" * 64


async def answer(request: Request) -> Response:
    request.state.caller = SHOP
    await request.body()
    return PlainTextResponse("x" * 10, 201, headers={"X-Request-ID": request.headers.get("x-request-id", "made")})


async def refuse(request: Request) -> Response:
    request.state.request_id = "of the state"
    return PlainTextResponse("no", 401)


async def fail(request: Request) -> Response:
    raise RuntimeError("a fault")


async def stream(request: Request) -> Response:
    async def parts():
        for _ in range(3):
            yield b"1234"

    return StreamingResponse(parts())


class Server:
    def __init__(self, app) -> None:
        config = uvicorn.Config(app, access_log=False, log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    def send(self, target: str, *headers: str, body: bytes = b"", method: str = "POST") -> bytes:
        """Sends exactly this, and returns what comes."""
        head = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers]
        with socket.create_connection(self.socket.getsockname(), timeout=60) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    routes = [
        Route(path, endpoint, methods=["GET", "POST"])
        for path, endpoint in (("/refuse", refuse), ("/fail", fail), ("/stream", stream), ("/{path:path}", answer))
    ]
    server = Server(AccessLog(Starlette(routes=routes), Lines()))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server logs, as JSON."""
    stream, logger = io.StringIO(), logging.getLogger(access_log.LOGGER)
    before = logger.handlers[:], logger.propagate
    log_to(stream, "json")
    yield stream
    logger.handlers[:], logger.propagate = before


def entries(log: io.StringIO, count: int = 1) -> list[dict]:
    """So many lines, the last of which may be written after its answer has arrived."""
    wait_for(lambda: log.getvalue().count("\n") >= count)
    return [json.loads(line) for line in log.getvalue().splitlines()]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_is_one_line(server, log):
    server.send("/v2/models/digits/infer?token=hidden", "X-Request-ID: abc", body=b"y" * 7)
    (entry,) = entries(log)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry.pop("time"))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", entry.pop("peer"))
    assert entry.pop("ms") >= 0
    assert entry == {
        "key": "0123abcd",
        "name": "shop",
        "method": "POST",
        "path": "/v2/models/digits/infer",
        "protocol": "HTTP/1.1",
        "status": 201,
        "received": 7,
        "sent": 10,
        "id": "abc",
    }


def test_a_refused_a_failed_and_a_streamed_answer(server, log):
    assert b" 500 " in server.send("/fail")
    server.send("/refuse")
    server.send("/stream")
    shown = [(entry["status"], entry["key"], entry["sent"], entry["id"]) for entry in entries(log, 3)]
    assert shown == [(500, None, 21, None), (401, None, 2, "of the state"), (200, None, 12, None)]


def test_nothing_secret_is_logged(server, log, caplog):
    caplog.set_level(logging.DEBUG)
    for target in (f"/a?key={KEY}", f"/refuse?{KEY}", f"/predictions/{KEY}", "/a?password=hunter2"):
        server.send(target, f"Authorization: Bearer {KEY}", f"X-Request-ID: {KEY}", f"Cookie: {KEY}", body=KEY.encode())
    assert len(entries(log, 4)) == 4
    # uvicorn's own access log is off; pytest attaches itself to loggers that do not propagate, and so switches it on.
    text = log.getvalue() + "".join(record.getMessage() for record in caplog.records if record.name != "uvicorn.access")
    assert "5555" not in text
    assert "hunter2" not in text
    assert "Authorization" not in text
    assert "/predictions/marquee_0123abcd_***" in text


@pytest.mark.parametrize("as_json", [False, True])
def test_a_client_cannot_forge_a_line(as_json, server):
    stream, logger = io.StringIO(), logging.getLogger(access_log.LOGGER)
    before = logger.handlers[:], logger.propagate
    log_to(stream, "json" if as_json else "logfmt")
    try:
        server.send("/a%0Atime=2000%20status=200%1b[2J%00%7f%22%E2%80%A8")
        server.send("/" + "a" * 5_000, "X-Request-ID: b status=999\xff")
        wait_for(lambda: stream.getvalue().count("\n") == 2)
    finally:
        logger.handlers[:], logger.propagate = before
    first, second = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert stream.getvalue().replace("\n", "").isprintable()
    assert len(second) < 600
    if as_json:
        assert json.loads(first)["path"] == '/a\ntime=2000 status=200\x1b[2J\x00\x7f"\u2028'
        assert json.loads(second)["id"] == "b status=999\xff"
        return
    for line, status in ((first, "404"), (second, "201")):
        fields = [field.split("=") for field in re.sub(r'"(\\.|[^"])*"', "TEXT", line).split()]
        assert [name for name, _ in fields] == FIELDS
        assert dict(fields)["status"] == status


def test_no_lines(server):
    stream, logger = io.StringIO(), logging.getLogger(access_log.LOGGER)
    before = logger.handlers[:], logger.propagate, logger.level
    log_to(stream, "none")
    try:
        server.send("/v2")
        log_to(stream, "logfmt")
        server.send("/v1")
        wait_for(lambda: stream.getvalue())
    finally:
        logger.handlers[:], logger.propagate = before[:2]
        logger.setLevel(before[2])
    assert [line.split(" path=")[1].split()[0] for line in stream.getvalue().splitlines()] == ["/v1"]


def test_a_refusal_is_warned_of_with_the_address(caplog):
    Lines().write_rpc(
        f"/inference.GRPCInferenceService/{KEY}",
        "UNAUTHENTICATED",
        peer="ipv6:%5B::1%5D:40000",
        received=1,
        sent=0,
        seconds=0.1,
    )
    assert caplog.messages[-2].startswith("refused [::1]: UNAUTHENTICATED /inference.GRPCInferenceService/marquee_")
    assert "5555" not in caplog.text


def test_grpc_has_the_same_line(log):
    Lines().write_rpc(
        "/inference.GRPCInferenceService/ModelInfer",
        "OK",
        peer="ipv4:127.0.0.1:40000",
        received=100,
        sent=20,
        seconds=0.0123,
        caller=SHOP,
    )
    (entry,) = entries(log)
    assert (entry["peer"], entry["protocol"], entry["status"], entry["key"]) == (
        "127.0.0.1:40000",
        "gRPC",
        "OK",
        "0123abcd",
    )
    assert (entry["ms"], entry["received"], entry["sent"], entry["method"]) == (12.3, 100, 20, "-")


def test_a_client_that_goes_is_logged_too(log):
    """Its work is cancelled by what is inside; the line has no status."""
    import asyncio

    async def cancelled(scope, receive, send):
        raise asyncio.CancelledError

    scope = {"type": "http", "method": "POST", "path": "/a", "client": None}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(AccessLog(cancelled, Lines())(scope, None, None))
    assert [(entry["status"], entry["peer"]) for entry in entries(log)] == [("-", "-:0")]


def test_json_lines_format_other_records_too():
    record = logging.LogRecord("other", logging.INFO, "f", 1, "said %s", ("so",), None)
    assert json.loads(JsonLines().format(record)) == {"message": "said so"}
