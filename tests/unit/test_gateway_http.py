"""What the doors over HTTP have in common: paths, headers, limits, and clients that are slow, huge, or gone."""

import asyncio
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import requests

from marquee.gateway import app
from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore
from marquee.gateway.app import operations
from marquee.gateway.backend import Call, Reply
from marquee.gateway.config import CorsConfig, Routes
from marquee.gateway.doors import health
from marquee.gateway.errors import BUSY, GatewayError
from marquee.gateway.gateway import Gateway
from tests.gateway_server import HttpGateway

GENEROUS = 60.0
ORIGIN = "https://example.org"


class Held:
    """A delivery whose calls wait until they are let go, so that a test can look at them meanwhile."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.let_go = threading.Event()
        self.calls: list[Call] = []
        self.error: Exception | None = None

    async def deliver(self, call: Call, seconds: float) -> Reply:
        self.calls.append(call)
        self.started.set()
        try:
            while not self.let_go.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return Reply(status=200, body=b'{"label": "held"}')

    def in_place(self, gateway: Gateway) -> Gateway:
        return replace(gateway, delivery=self)


@pytest.fixture
def held():
    delivery = Held()
    yield delivery
    delivery.let_go.set()


@pytest.fixture(scope="module")
def open_server():
    """Nobody is asked for a key, and every call is answered at once."""
    delivery = Held()
    delivery.let_go.set()
    with HttpGateway({}, around=delivery.in_place) as running:
        running.calls = delivery.calls
        yield running


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    store = KeyStore(path)
    return path, {"predict": store.add("one"), "all": store.add("all", scopes=("predict", "explain", "manage"))}


@pytest.fixture(scope="module")
def locked_server(keys):
    delivery = Held()
    delivery.let_go.set()
    with HttpGateway({}, access=KeyAccess(keys[0]), around=delivery.in_place) as running:
        running.calls = delivery.calls
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        ["/nothing", "/v2/models", "/predictions", "/predictions/a/b/c", "//ping", "/PING", "/predictions/a%2Fb"],
    )
    def test_unknown_ones(self, open_server, path):
        response = requests.post(open_server.url + path, data=b"x", timeout=GENEROUS)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "not_found"
        assert not open_server.calls

    def test_other_methods(self, open_server):
        for method, path, allowed in (
            ("DELETE", "/ping", "GET, HEAD"),
            ("GET", "/invocations", "POST"),
            ("POST", "/models/x", "DELETE, GET, HEAD, PUT"),
            ("PROPFIND", "/predictions/x", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ):
            response = requests.request(method, open_server.url + path, timeout=GENEROUS)
            assert response.status_code == 405
            assert response.headers["allow"] == allowed
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["status"] == 405

    def test_the_handler_is_told_that_a_body_is_an_inference_request(self, open_server):
        url = f"{open_server.url}/v2/models/x/infer"
        for headers, body, told in (
            ({}, b"{ }", "3"),
            ({"Inference-Header-Content-Length": "2"}, b"{}abc", "2"),
            ({"Content-Encoding": "gzip"}, gzip.compress(b"{}"), None),
            ({}, gzip.compress(b"{}"), None),
        ):
            requests.post(url, data=body, headers=headers, timeout=GENEROUS)
            assert open_server.calls.pop().headers.get("inference-header-content-length") == told

    def test_names_are_decoded(self, open_server):
        requests.post(f"{open_server.url}/predictions/%C3%A4%20b/1%2E0", data=b"x", timeout=GENEROUS)
        call = open_server.calls.pop()
        assert (call.model, call.version) == ("ä b", "1.0")

    def test_every_operation_is_served_once(self, open_server):
        places = [
            (method, operation.path) for operation in operations(open_server.gateway) for method in operation.methods
        ]
        assert len(places) == len(set(places))
        assert len(places) > 50

    def test_two_operations_of_one_place_are_an_error(self, open_server, monkeypatch):
        monkeypatch.setattr(app, "_DOORS", (*app._DOORS, health.operations))
        with pytest.raises(ValueError, match="is there twice"):
            app.build_app(open_server.gateway)

    def test_a_platforms_path_comes_first(self, open_server):
        config = replace(open_server.config, routes=Routes(predict="/invocations", health="/"))
        chosen = {
            (method, o.path): o.tag
            for o in operations(replace(open_server.gateway, config=config))
            for method in o.methods
        }
        assert chosen["POST", "/invocations"] == chosen["GET", "/"] == "Vertex AI"
        app.build_app(replace(open_server.gateway, config=config))


class TestKeys:
    def test_unknown_paths_ask_for_a_key_first(self, locked_server, keys):
        for method, path in (("GET", "/nothing"), ("GET", "/invocations"), ("POST", "/predictions/a%2Fb")):
            response = requests.request(method, locked_server.url + path, timeout=GENEROUS)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        headers = bearer(keys[1]["predict"])
        assert requests.get(f"{locked_server.url}/nothing", headers=headers, timeout=GENEROUS).status_code == 404
        assert requests.get(f"{locked_server.url}/invocations", headers=headers, timeout=GENEROUS).status_code == 405

    def test_errors_have_the_protocols_form(self, locked_server, keys):
        url = locked_server.url
        for path, is_text in (("/v2/models/x/infer", True), ("/v1/models/x:predict", True), ("/predictions/x", False)):
            response = requests.post(url + path, data=b"x", timeout=GENEROUS)
            assert response.status_code == 401
            assert isinstance(response.json()["error"], str if is_text else dict)
            assert response.json()["code"] == "unauthenticated"
        response = requests.get(f"{url}/models", headers=bearer(keys[1]["predict"]), timeout=GENEROUS)
        assert response.status_code == 403
        assert response.json()["code"] == "forbidden"

    @pytest.mark.parametrize(
        "options",
        [
            {"json": {"b64": "", "explain": True}},
            {"data": b'{"b64": "", "\\u0065xplain": true}', "headers": {"Content-Type": "application/json"}},
            {"files": {"data": b"x", "explain": (None, "true")}},
            {"data": "data=x&explain=true", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            {"data": gzip.compress(b'{"b64": "", "explain": true}')},
            {"data": b'{"b64": "' + b"A" * 2_000_000 + b'", "explain": true}'},
            {"json": {"instances": [{"age": 3}], "explain": True}},
            {"json": {"instances": [{"age": 3}], "method": "shapley", "explain": True}},
            {"json": {"b64": "", "explain": "maybe"}},
            {"data": "data=x&%65xplain=true", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            {"files": {"data": gzip.compress(b'{"b64": "", "explain": true}')}},
            {"files": {"data": b"\xff\xd8\xff", "explain": (None, "true")}},
        ],
        ids=[
            *("JSON", "escaped", "form", "short form", "packed", "long", "rows", "method of rows", "no truth value"),
            *("encoded name", "packed part", "image in a form"),
        ],
    )
    def test_an_explanation_needs_its_scope(self, locked_server, keys, options):
        """Whichever way it is asked for, beside the path that says so."""
        url = f"{locked_server.url}/predictions/x"
        options = dict(options)
        headers = options.pop("headers", {})
        response = requests.post(url, headers={**headers, **bearer(keys[1]["predict"])}, timeout=GENEROUS, **options)
        assert response.status_code == 403
        assert "explain" in response.json()["error"]["message"]
        response = requests.post(url, headers={**headers, **bearer(keys[1]["all"])}, timeout=GENEROUS, **options)
        assert response.status_code == 200

    @pytest.mark.parametrize(
        "body",
        [b'{"b64": "", "explain": false}', b'{"note": "explain"}', b"explain", b'{"\\u00e4": 1}', b"\x1f\x8b\x08"],
    )
    def test_other_bodies_need_no_other_scope(self, locked_server, keys, body):
        url = f"{locked_server.url}/predictions/x"
        response = requests.post(url, data=body, headers=bearer(keys[1]["predict"]), timeout=GENEROUS)
        assert response.status_code == 200

    def test_a_key_is_asked_for_before_the_body_is_read(self, locked_server):
        with locked_server.connect() as connection:
            head = "POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(head.encode())
            status, headers, _ = read_answer(connection)
            assert status == 401
            assert headers["connection"] == "close"
            assert connection.recv(1) == b""

    def test_a_refused_client_can_read_why(self, locked_server):
        """It sends all of its body first; a connection that is closed meanwhile would be reset."""
        body = b"x" * 20_000_000
        head = f"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with locked_server.connect() as connection:
            connection.sendall(head.encode() + body)
            assert read_answer(connection)[0] == 401

    def test_a_refused_connection_is_kept_where_the_body_is_small(self, locked_server, keys):
        connection = http.client.HTTPConnection("127.0.0.1", locked_server.port, timeout=GENEROUS)
        for headers, status in (({}, 401), (bearer(keys[1]["predict"]), 200)):
            connection.request("POST", "/predictions/x", b"x" * 50_000, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == status
            assert response.getheader("connection") is None
        connection.close()


class TestHeaders:
    def test_security(self, open_server):
        for method, path in (("GET", "/ping"), ("GET", "/nothing"), ("POST", "/predictions/x")):
            headers = requests.request(method, open_server.url + path, timeout=GENEROUS).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert "server" not in headers
            assert "access-control-allow-origin" not in headers

    def test_the_id_of_a_request(self, open_server):
        url = f"{open_server.url}/predictions/x"
        mine = {"X-Request-ID": "order-7/a:b"}
        assert requests.post(url, data=b"x", headers=mine, timeout=GENEROUS).headers["x-request-id"] == "order-7/a:b"
        assert open_server.calls.pop().headers["x-request-id"] == "order-7/a:b"
        made = {requests.post(url, data=b"x", timeout=GENEROUS).headers["x-request-id"] for _ in range(3)}
        assert len(made) == 3
        odd = {"X-Request-ID": 'a" b'}
        assert requests.post(url, data=b"x", headers=odd, timeout=GENEROUS).headers["x-request-id"] != 'a" b'
        del open_server.calls[:]

    def test_what_reaches_the_handler(self, open_server):
        sent = {
            "traceparent": "00-1",
            "tracestate": "a=1",
            "X-Other": "1",
            "explain": "True",
            "Content-Type": "image/x",
        }
        requests.post(f"{open_server.url}/predictions/x", data=b"x", headers=sent, timeout=GENEROUS)
        call = open_server.calls.pop()
        assert call.content_type == "image/x"
        assert call.headers.keys() == {"traceparent", "tracestate", "x-request-id"}

    @pytest.mark.parametrize(
        ("sent", "body", "told"),
        [
            ("application/x-www-form-urlencoded", b"\x89PNG\r\n", "application/octet-stream"),
            ("application/x-www-form-urlencoded", b'{"b64": "a="}', "application/octet-stream"),
            ("application/x-www-form-urlencoded", b"", "application/octet-stream"),
            ("application/x-www-form-urlencoded", b"data=iVBOR%2F", "application/x-www-form-urlencoded"),
            (
                "application/x-www-form-urlencoded; charset=UTF-8",
                b"a=1&b=2",
                "application/x-www-form-urlencoded; charset=UTF-8",
            ),
            ("multipart/form-data; boundary=x", b"--x--", "multipart/form-data; boundary=x"),
            ("text/csv", b"a", "text/csv"),
            ("", b"a", "application/octet-stream"),
        ],
    )
    def test_types(self, open_server, sent, body, told):
        requests.post(f"{open_server.url}/predictions/x", data=body, headers={"Content-Type": sent}, timeout=GENEROUS)
        assert open_server.calls.pop().content_type == told


@pytest.fixture(scope="module")
def shared(keys):
    with HttpGateway({}, access=KeyAccess(keys[0]), cors=CorsConfig(origins=(ORIGIN,))) as running:
        yield running


class TestCors:
    def test_a_preflight_needs_no_key(self, shared):
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,inference-header-content-length",
        }
        response = requests.options(f"{shared.url}/v2/models/x/infer", headers=asked, timeout=GENEROUS)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in response.headers["access-control-allow-methods"]
        allowed = response.headers["access-control-allow-headers"].lower()
        assert "authorization" in allowed
        assert "access-control-allow-credentials" not in response.headers

    def test_other_origins(self, shared):
        asked = {"Origin": "https://elsewhere.org", "Access-Control-Request-Method": "POST"}
        response = requests.options(f"{shared.url}/v2", headers=asked, timeout=GENEROUS)
        assert response.status_code == 400
        assert "access-control-allow-origin" not in response.headers
        response = requests.get(f"{shared.url}/ping", headers={"Origin": "https://elsewhere.org"}, timeout=GENEROUS)
        assert "access-control-allow-origin" not in response.headers

    def test_refusals_can_be_read_by_the_page(self, shared):
        response = requests.get(f"{shared.url}/v2", headers={"Origin": ORIGIN}, timeout=GENEROUS)
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "WWW-Authenticate" in response.headers["access-control-expose-headers"]
        assert "cross-origin-resource-policy" not in response.headers

    def test_without_it_options_is_no_preflight(self, open_server):
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        response = requests.options(f"{open_server.url}/v2", headers=asked, timeout=GENEROUS)
        assert response.status_code == 405
        assert "access-control-allow-origin" not in response.headers


@pytest.fixture(scope="module")
def small():
    delivery = Held()
    delivery.let_go.set()
    settings = {"max_request_bytes": 1_000, "body_seconds": 1.0}
    with HttpGateway({}, around=delivery.in_place, **settings) as running:
        yield running


class TestBodies:
    def test_too_large(self, small):
        url = f"{small.url}/v2/models/x/infer"
        for body in (b"x" * 1_001, iter([b"x" * 600] * 3), b"x" * 3_000_000):
            response = requests.post(url, data=body, timeout=GENEROUS)
            assert response.status_code == 413
            assert response.json()["code"] == "too_large"
            assert "1000 " in response.json()["error"]
        assert requests.post(f"{small.url}/predictions/x", data=b"x" * 1_000, timeout=GENEROUS).status_code == 200

    def test_a_length_that_is_announced_is_believed(self, small):
        with small.connect() as connection:
            connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
            assert read_answer(connection)[0] == 413

    @pytest.mark.parametrize("head", ["Content-Length: 500", "Transfer-Encoding: chunked"])
    def test_too_slow(self, small, head):
        with small.connect() as connection:
            connection.sendall(f"POST /predictions/x HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n1\r\nx\r\n".encode())
            status, headers, body = read_answer(connection)
            assert status == 408
            assert headers["connection"] == "close"
            assert json.loads(body)["code"] == "request_too_slow"
            assert connection.recv(1) == b""

    def test_a_slow_client_holds_nobody_up(self, small):
        slow = [small.connect() for _ in range(50)]
        for connection in slow:
            connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nx")
        assert requests.post(f"{small.url}/predictions/x", data=b"x", timeout=GENEROUS).status_code == 200
        for connection in slow:
            connection.close()

    def test_lengths_that_are_none(self, small):
        for length in ("-1", "0x10", "1_0", "\u0661"):
            with small.connect() as connection:
                head = f"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
                connection.sendall(head.encode())
                assert read_answer(connection)[0] == 400


class TestClientsThatGo:
    def test_their_work_is_dropped(self, held):
        with HttpGateway({}, around=held.in_place) as running:
            connection = running.connect()
            connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            assert held.started.wait(GENEROUS)
            assert not held.cancelled.is_set()
            connection.close()
            assert held.cancelled.wait(GENEROUS)
            assert requests.get(f"{running.url}/ping", timeout=GENEROUS).status_code == 503

    def test_in_the_middle_of_a_body(self, held):
        with HttpGateway({}, around=held.in_place) as running:
            connection = running.connect()
            connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            connection.close()
            held.let_go.set()
            assert requests.post(f"{running.url}/predictions/x", data=b"x", timeout=GENEROUS).status_code == 200
            assert len(held.calls) == 1

    def test_those_that_stay_are_answered(self, held):
        with HttpGateway({}, around=held.in_place) as running:
            with running.connect() as connection:
                connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
                assert held.started.wait(GENEROUS)
                held.let_go.set()
                assert read_answer(connection)[0] == 200
            assert not held.cancelled.is_set()

    def test_half_of_a_connection(self, held):
        """A client that has closed its own half is treated as gone, and holds nothing."""
        with HttpGateway({}, around=held.in_place) as running, running.connect() as connection:
            connection.sendall(b"POST /predictions/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            assert held.started.wait(GENEROUS)
            connection.shutdown(socket.SHUT_WR)
            assert held.cancelled.wait(GENEROUS)
            assert connection.recv(1) == b""


class TestErrors:
    @pytest.fixture
    def failing(self, held):
        held.let_go.set()
        with HttpGateway({}, around=held.in_place) as running:
            yield running, held

    def test_a_refusal_that_may_be_tried_again(self, failing):
        running, held = failing
        held.error = GatewayError(BUSY, "the queue is full", retry_after=1.2)
        response = requests.post(f"{running.url}/v2/models/x/infer", data=b"x", timeout=GENEROUS)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        assert response.json()["error"] == "the queue is full"

    def test_a_mistake_of_ours(self, failing, caplog):
        running, held = failing
        held.error = RuntimeError("secret")
        response = requests.post(f"{running.url}/predictions/x", data=b"x", timeout=GENEROUS)
        assert response.status_code == 500
        assert response.json()["code"] == "internal_error"
        assert "secret" not in response.text
        assert "secret" in caplog.text

    def test_answers_of_hosts_that_are_not_json(self, failing):
        """An archive of somebody else may answer anything; an error is a text in any case."""
        running, held = failing
        replies = iter(
            [Reply(status=400, body=b"\xff"), Reply(status=500, body=b"[1]"), Reply(status=200, body=b"\xff")]
        )

        async def deliver(call: Call, seconds: float) -> Reply:
            return next(replies)

        held.deliver = deliver
        url = f"{running.url}/v1/models/x:predict"
        for status in (400, 500):
            response = requests.post(url, data=b"x", timeout=GENEROUS)
            assert response.status_code == status
            assert isinstance(response.json()["error"], str)
        assert requests.post(url, data=b"x", timeout=GENEROUS).content == b"\xff"

    def test_an_archive_that_does_not_know_the_protocol(self, failing):
        """Triton's client would fail on its answer, and not say why."""
        running, _ = failing
        response = requests.post(f"{running.url}/v2/models/x/infer", data=b"{}", timeout=GENEROUS)
        assert response.status_code == 400
        assert "an archive that knows this protocol" in response.json()["error"]


def test_the_loop_stays_free_while_a_model_computes(store):
    """Inference is in a thread: probes are answered meanwhile, and the calls of a model wait for each other."""
    with HttpGateway({"digits": store / "digits.mar"}) as running:
        model = running.backend._models["digits"]["1.0"].model
        answer, begun, go_on = model.answer, threading.Event(), threading.Event()

        def slowly(call: Call) -> Reply:
            begun.set()
            assert go_on.wait(GENEROUS)
            return answer(call)

        model.answer = slowly
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda: results.append(_status(running, "/predictions/digits"))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        assert begun.wait(GENEROUS)
        assert requests.get(f"{running.url}/ping", timeout=GENEROUS).status_code == 200
        _until(lambda: running.run(running.backend.versions())[0].pending == 2)
        assert results == []
        go_on.set()
        for thread in threads:
            thread.join()
        assert results == [400, 400]


def _status(running: HttpGateway, path: str) -> int:
    return requests.post(running.url + path, data=b"not", timeout=GENEROUS).status_code


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
