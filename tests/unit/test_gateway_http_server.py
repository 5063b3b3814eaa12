"""The HTTP server alone, with a small application behind it: its end, slow and silent clients, many of them, TLS."""

import asyncio
import collections
import http.client
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
import trustme

from marquee.gateway.config import GatewayConfig, TlsConfig
from marquee.gateway.errors import StartError
from marquee.gateway.http_server import HttpServer
from marquee.gateway.listeners import bind, raise_file_limit
from marquee.gateway.tls import http_context


async def echo(scope, receive, send) -> None:
    """Answers with the body; ``/slow`` after a moment, ``/early`` before it has read anything."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    body = b""
    while scope["path"] != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] == "/large":
        body = bytes(30_000_000)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server in a thread with an event loop of its own."""

    def __init__(self, secure: ssl.SSLContext | None = None, **settings) -> None:
        self.config = GatewayConfig(port=0, **settings)
        self.listeners = bind(self.config)
        self.port = self.listeners.socket.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = self.call(self._open(secure))

    async def _open(self, secure: ssl.SSLContext | None) -> HttpServer:
        server = HttpServer(echo, self.listeners.socket, self.config, secure)
        await server.open()
        return server

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def close(self, seconds: float = 10) -> int:
        return self.call(self.server.close(seconds))

    def end(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.settimeout(60)
        return connection

    def ask(self, path: str = "/", body: bytes = b"hello") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, body)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def running(**settings) -> Iterator[Running]:
    server = Running(**settings)
    try:
        yield server
    finally:
        with suppress(Exception):
            server.close(0)
        server.end()


def read_to_the_end(connection: socket.socket) -> bytes:
    """What comes until the connection is closed, or reset, as it is where the server has not read everything."""
    data = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            data += chunk
    return data


def read_answer(connection: socket.socket, body: bytes) -> None:
    data = b""
    while not data.endswith(b"\r\n\r\n" + body):
        chunk = connection.recv(65_536)
        assert chunk, data
        data += chunk


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestEnd:
    @pytest.mark.parametrize("keep_alive", [True, False])
    def test_no_request_is_lost(self, keep_alive):
        """Eight clients, each with one request after the other; the end comes while all of them are busy."""
        outcomes: collections.Counter[str] = collections.Counter()
        started = threading.Semaphore(0)

        def client(server: Running) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            for number in range(100_000):
                if connection.sock is None:
                    try:
                        connection.connect()
                    except ConnectionRefusedError:
                        outcomes["refused"] += 1
                        return
                try:
                    body = b"%d" % number
                    connection.request("POST", "/slow" if number % 7 == 0 else "/", body)
                    answer = connection.getresponse()
                    outcomes["right" if answer.read() == body else "wrong"] += 1
                    started.release()
                except (OSError, http.client.HTTPException) as error:
                    outcomes[f"lost: {error!r}"] += 1
                    connection.close()
                if not keep_alive or answer.getheader("connection") == "close":
                    connection.close()

        with running() as server:
            threads = [threading.Thread(target=client, args=(server,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for _ in range(200):
                assert started.acquire(timeout=60)
            assert server.close() == 0
            for thread in threads:
                thread.join(60)
        assert set(outcomes) == {"right", "refused"}, outcomes
        assert outcomes["refused"] == 8
        assert outcomes["right"] >= 200

    def test_a_request_that_waits_to_be_accepted_is_answered(self):
        """The loop is held while it comes: the connection stands in the queue of the listening socket at the end."""
        with running() as server, server.connect() as connection:
            other = None

            async def hold_and_close() -> int:
                nonlocal other
                closing = asyncio.ensure_future(server.server.close(10))
                await asyncio.sleep(0)
                server.server.should_exit = True
                other = server.connect()
                other.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
                await server.server._stop_listening()
                return await closing

            server.server._stop_listening, stop = _once(server.server._stop_listening)
            assert server.call(hold_and_close()) == 0
            assert stop
            assert b"200 OK" in read_to_the_end(other)
            other.close()
            assert read_to_the_end(connection) == b""

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such filter")
    def test_who_comes_when_the_last_one_was_accepted_is_refused(self):
        """Not connected and cut off: such a client could not know whether its request was worked on."""
        outcomes: list[str] = []

        def client(port: int) -> None:
            try:
                with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
                    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
                    outcomes.append("answered" if b"200 OK" in read_to_the_end(connection) else "cut off")
            except OSError as error:
                outcomes.append(type(error).__name__)

        class Listener:
            """Somebody comes just after it has found nobody waiting."""

            def __init__(self, listener: socket.socket, late: threading.Thread) -> None:
                self.listener, self.late = listener, late

            def __getattr__(self, name: str):
                return getattr(self.listener, name)

            def accept(self):
                try:
                    return self.listener.accept()
                except BlockingIOError:
                    if not self.late.ident:
                        self.late.start()
                        time.sleep(0.3)
                    raise

        with running() as server:
            late = threading.Thread(target=client, args=(server.port,))
            server.server._listener = Listener(server.server._listener, late)
            assert server.close() == 0
            late.join(60)
        assert outcomes == ["ConnectionRefusedError"]

    def test_an_answer_says_that_it_is_the_last(self):
        with running() as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request("POST", "/", b"1")
            answer = connection.getresponse()
            assert (answer.read(), answer.getheader("connection")) == (b"1", None)
            server.loop.call_soon_threadsafe(server.server.begin_closing)
            connection.request("POST", "/slow", b"2")
            answer = connection.getresponse()
            assert (answer.read(), answer.getheader("connection")) == (b"2", "close")
            assert server.ask("/", b"3") == b"3"  # new ones are still taken

    def test_what_is_not_answered_in_time_is_given_up(self):
        with running() as server, server.connect() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhi")
            assert server.close(seconds=1.5) == 1
            assert b"200" not in read_to_the_end(connection)


def _once(function):
    """The function, which does its work at the first call only, and whether it was called."""
    called: list[bool] = []

    async def once() -> None:
        if not called:
            called.append(True)
            await function()

    return once, called


class TestSlowAndSilentClients:
    def test_a_head_that_never_ends(self):
        with running(body_seconds=1) as server, server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            assert read_to_the_end(connection).startswith(b"HTTP/1.1 408")

    def test_a_head_that_comes_piece_by_piece(self):
        with running(body_seconds=1) as server, server.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            sender = threading.Thread(target=_drip, args=(connection,))
            sender.start()
            assert b"200" not in read_to_the_end(connection)
            sender.join()

    def test_blank_lines_are_no_request(self):
        with running(body_seconds=60, idle_seconds=1) as server, server.connect() as connection:
            sender = threading.Thread(target=_drip, args=(connection, b"\r\n"))
            sender.start()
            assert read_to_the_end(connection) == b""
            sender.join()

    def test_a_connection_without_a_request(self):
        with running(idle_seconds=1) as server, server.connect() as connection:
            assert read_to_the_end(connection) == b""

    def test_a_connection_that_is_kept(self):
        with running(idle_seconds=1) as server, server.connect() as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            answer = read_to_the_end(connection)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"\r\n\r\nhi")

    def test_a_second_head_that_never_ends(self):
        with running(body_seconds=1) as server, server.connect() as connection:
            request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
            connection.sendall(request + b"POST / HT")
            answer = read_to_the_end(connection)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 408" in answer

    def test_a_body_that_goes_on_after_the_answer(self):
        with running(body_seconds=1) as server, server.connect() as connection:
            connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            sender = threading.Thread(target=_drip, args=(connection, b"x"))
            sender.start()
            assert read_to_the_end(connection).startswith(b"HTTP/1.1 200")
            sender.join()

    def test_an_answer_that_is_not_taken(self):
        with running(idle_seconds=1) as server, server.connect() as connection:
            connection.sendall(b"POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            wait_for(lambda: server.server.server_state.total_requests == 1)
            wait_for(lambda: not server.server.server_state.connections)

    def test_a_slow_answer_is_waited_for(self):
        """Silence while the application works is the application's."""
        with running(body_seconds=0.1, idle_seconds=0.1) as server:
            assert server.ask("/slow", b"late") == b"late"


def _drip(connection: socket.socket, piece: bytes = b"X-Drip: 1\r\n") -> None:
    """Sends a piece now and then, until the server has had enough."""
    with suppress(OSError):
        while True:
            connection.sendall(piece)
            time.sleep(0.2)


class TestManyClients:
    def test_idle_connections_hold_nothing(self):
        raise_file_limit()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        many = min(2_000, soft // 2 - 500)
        assert many > 200
        connections: list[socket.socket] = []
        with running() as server:
            try:
                for _ in range(many):
                    connections.append(server.connect())
                assert server.ask() == b"hello"
            finally:
                for connection in connections:
                    connection.close()

    def test_one_too_many_takes_the_place_of_the_longest_idle(self):
        with running(max_connections=3) as server:
            busy = server.connect()
            busy.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            oldest, newer = server.connect(), server.connect()
            newer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            read_answer(newer, b"hi")
            wait_for(lambda: len(server.server.config.connections.idle) == 2)
            with busy, oldest, newer:
                assert server.ask() == b"hello"
                assert read_to_the_end(oldest) == b""
                newer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nho")
                read_answer(newer, b"ho")
                busy.sendall(b"yo")
                read_answer(busy, b"yo")

    def test_where_none_is_idle_the_new_one_is_closed(self):
        with running(max_connections=1) as server, server.connect() as busy:
            busy.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            shared = server.server.config.connections
            wait_for(lambda: server.server.server_state.connections and not shared.idle)
            with server.connect() as other:
                assert read_to_the_end(other) == b""
            busy.sendall(b"yo")
            read_answer(busy, b"yo")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_of(authority: trustme.CA, folder, clients: bool = False) -> TlsConfig:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(folder / "server.pem"), append=True)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    return TlsConfig(
        certificate=folder / "server.pem",
        key=folder / "server.key",
        client_authority=folder / "authority.pem" if clients else None,
    )


class TestEndOfAnswers:
    """Large ones, which a client takes slowly."""

    @pytest.mark.parametrize("is_secure", [False, True])
    def test_they_are_sent_whole(self, is_secure, authority, tmp_path):
        secure = http_context(tls_of(authority, tmp_path)) if is_secure else None
        with running(secure=secure) as server:
            connection = server.connect()
            if is_secure:
                connection = trusting(authority).wrap_socket(connection, server_hostname="localhost")
            connection.sendall(b"POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            wait_for(lambda: is_answered(server))
            end = asyncio.run_coroutine_threadsafe(server.server.close(50), server.loop)
            time.sleep(3)
            assert not end.done()
            assert len(read_to_the_end(connection).partition(b"\r\n\r\n")[2]) == 30_000_000
            assert end.result(60) == 0
            connection.close()

    @pytest.mark.parametrize("is_secure", [False, True])
    def test_a_little_that_is_left_is_sent_too(self, is_secure, authority, tmp_path):
        """Less than what a transport keeps before it says that it is full; the system's buffers are small."""
        body = bytes(60_000)
        secure = http_context(tls_of(authority, tmp_path)) if is_secure else None
        with running(secure=secure) as server:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", server.port))
            if is_secure:
                connection = trusting(authority).wrap_socket(connection, server_hostname="localhost")
            wait_for(lambda: server.server.server_state.connections)
            (accepted,) = server.server.server_state.connections
            accepted.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_for(lambda: is_answered(server))
            end = asyncio.run_coroutine_threadsafe(server.server.close(50), server.loop)
            time.sleep(3)
            assert not end.done()
            assert read_to_the_end(connection).endswith(b"\r\n\r\n" + body)
            assert end.result(60) == 0
            connection.close()


def is_answered(server: Running) -> bool:
    """Whether the application has given all of its answer to the one connection."""
    cycles = [connection.cycle for connection in server.server.server_state.connections]
    return any(cycle is not None and cycle.response_complete for cycle in cycles)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class TestTls:
    def ask(self, server: Running, context: ssl.SSLContext) -> bytes:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=context)
        connection.request("POST", "/", b"secret")
        return connection.getresponse().read()

    def test_silent_clients_do_not_hold_up_the_end(self, authority, tmp_path):
        """A connection that is kept for the next request does not answer when TLS says goodbye."""
        with running(secure=http_context(tls_of(authority, tmp_path))) as server:
            kept = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=trusting(authority))
            kept.request("POST", "/", b"1")
            assert kept.getresponse().read() == b"1"
            fresh = trusting(authority).wrap_socket(server.connect(), server_hostname="localhost")
            last = trusting(authority).wrap_socket(server.connect(), server_hostname="localhost")
            last.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
            wait_for(lambda: server.server.server_state.tasks)
            with closing(kept), fresh, last:
                assert server.call(asyncio.wait_for(server.server.close(50), 20)) == 0
                assert b"connection: close" in last.recv(65_536)

    def test_only_1_3(self, authority, tmp_path):
        with running(secure=http_context(tls_of(authority, tmp_path))) as server:
            context = trusting(authority)
            assert self.ask(server, context) == b"secret"
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                self.ask(server, context)

    def test_certificates_of_clients(self, authority, tmp_path):
        with running(secure=http_context(tls_of(authority, tmp_path, clients=True))) as server:
            context = trusting(authority)
            with pytest.raises((ssl.SSLError, OSError)):
                self.ask(server, context)
            authority.issue_cert("client.example").configure_cert(context)
            assert self.ask(server, context) == b"secret"

    def test_files_that_cannot_be_used(self, authority, tmp_path):
        tls = tls_of(authority, tmp_path)
        (tmp_path / "server.key").write_text("nothing")
        with pytest.raises(StartError, match=r"server\.key: not usable as a certificate and its key"):
            http_context(tls)
