"""Who may call what over gRPC, how large and how slow a call may be, and what no message may do."""

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from marquee.gateway.access.check import KeyAccess, OpenAccess
from marquee.gateway.access.keys import KeyStore
from marquee.gateway.access.scope import SCOPES
from marquee.gateway.backend import Call, Reply
from marquee.gateway.config import GatewayConfig
from marquee.gateway.doors.rpc import error_of, status_name
from marquee.gateway.errors import BUSY, NOT_READY, GatewayError, StartError
from marquee.gateway.gateway import Gateway
from marquee.gateway.grpc_server import rpcs, start_grpc
from marquee.serving.grpc_stubs import load_stubs
from tests.grpc_gateway import GrpcGateway, status_of, wait_until
from tests.grpc_messages import INFER, PREDICTIONS, check_any, infer_requests, predictions_requests
from tests.properties import many

PUBLIC = {
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
}
WAIT = 60


def every_method() -> dict[str, tuple[bool, bool]]:
    """Path of each method that the services' own descriptions name -> whether requests and answers are streams."""
    stubs = load_stubs()
    files = (pb.DESCRIPTOR, stubs.inference.DESCRIPTOR, stubs.management.DESCRIPTOR)
    methods = {
        f"/{service.full_name}/{method.name}": (method.client_streaming, method.server_streaming)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }
    return {**methods, "/grpc.health.v1.Health/Check": (False, False), "/grpc.health.v1.Health/Watch": (False, True)}


def ask(channel: grpc.Channel, path: str, key: str | None = None, content: bytes = b"", **options: Any) -> Any:
    """Calls any method with bytes; the status's name, its words, and the trailing metadata."""
    from_stream, to_stream = every_method().get(path, (False, False))
    kind = f"{'stream' if from_stream else 'unary'}_{'stream' if to_stream else 'unary'}"
    metadata = [("authorization", f"Bearer {key}")] if key else []
    request = iter([content]) if from_stream else content
    try:
        answer = getattr(channel, kind)(path)(request, metadata=metadata, timeout=WAIT, **options)
        list(answer) if to_stream else None
    except grpc.RpcError as error:
        return error.code().name, error.details(), dict(error.trailing_metadata() or ())
    return "OK", "", {}


def images(content: bytes, model: str = "digits") -> pb.ModelInferRequest:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [content]}}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor])


@pytest.fixture(scope="module")
def image(digits) -> bytes:
    return next(iter(sorted((digits / "test").rglob("*.png")))).read_bytes()


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def locked(store, keys):
    with GrpcGateway({"digits": store / "digits.mar"}, access=KeyAccess(keys.path)) as server:
        yield server


@pytest.fixture
def door(locked) -> Iterator[grpc.Channel]:
    with locked.channel() as channel:
        yield channel


class TestKeys:
    def test_every_method_is_in_the_table(self, locked):
        assert {rpc.path for rpc in rpcs(locked.gateway)} == set(every_method())
        assert {rpc.path for rpc in rpcs(locked.gateway) if rpc.scope is None} == PUBLIC

    @pytest.mark.parametrize("key", [None, "wrong", "marquee_00000000_" + "0" * 64])
    def test_without_a_key_only_probes_are_answered(self, door, key):
        for path in every_method():
            code, _, trailing = ask(door, path, key)
            if path in PUBLIC:
                assert code in ("OK", "UNIMPLEMENTED"), path
            else:
                assert (code, trailing["error-code"]) == ("UNAUTHENTICATED", "unauthenticated"), path

    def test_a_method_that_no_table_names(self, door, keys):
        key = keys.add("unnamed")
        for path in ("/inference.GRPCInferenceService/Other", "/grpc.reflection.v1.ServerReflection/Info", "/x"):
            assert ask(door, path)[0] == "UNAUTHENTICATED"
            assert ask(door, path, key)[0] == "UNIMPLEMENTED"

    @pytest.mark.parametrize("scope", SCOPES)
    def test_scopes(self, locked, door, keys, scope):
        key = keys.add(f"may-{scope}", (scope,))
        for rpc in rpcs(locked.gateway):
            code = ask(door, rpc.path, key)[0]
            if rpc.scope in (scope, None):
                assert code not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), rpc.path
            else:
                assert code == "PERMISSION_DENIED", rpc.path

    @pytest.mark.parametrize("how", ["field", "JSON", "packed", "JSON in a part"])
    def test_an_explanation_needs_its_scope(self, door, keys, image, how):
        asked = {"b64": base64.b64encode(image).decode(), "explain": True, "method": "occlusion"}
        document = json.dumps(asked).encode()
        fields = {
            "field": {"data": image, "explain": b"true", "method": b"occlusion"},
            "JSON": {"data": document},
            "packed": {"data": gzip.compress(document)},
            "JSON in a part": {"data": document, "label": b"3"},
        }
        content = load_stubs().inference.PredictionsRequest(model_name="digits", input=fields[how]).SerializeToString()
        assert ask(door, PREDICTIONS, keys.add("predicts"), content)[0] == "PERMISSION_DENIED"
        assert ask(door, PREDICTIONS, keys.add("explains", ("predict", "explain")), content)[0] == "OK"

    def test_a_rate(self, door, keys, image):
        key = keys.add("slow", rate="2/hour")
        content = images(image).SerializeToString()
        assert [ask(door, INFER, key, content)[0] for _ in range(2)] == ["OK", "OK"]
        code, details, trailing = ask(door, INFER, key, content)
        assert code == "RESOURCE_EXHAUSTED"
        assert "2/hour" in details
        assert 0 < int(trailing["retry-after"]) <= 3600
        assert ask(door, INFER, keys.add("quick"), content)[0] == "OK"

    def test_a_key_that_was_revoked(self, door, keys, image):
        key = keys.add("gone")
        content = images(image).SerializeToString()
        assert ask(door, INFER, key, content)[0] == "OK"
        keys.revoke(key.split("_")[1])
        assert ask(door, INFER, key, content)[0] == "UNAUTHENTICATED"

    def test_a_stream_ends_with_its_key(self, locked, keys, image):
        key, request = keys.add("streams"), images(image)
        revoked = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            yield request
            revoked.wait(WAIT)
            yield request

        with locked.channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answers = stub.ModelStreamInfer(requests(), metadata=[("authorization", f"Bearer {key}")], timeout=WAIT)
            assert not next(answers).error_message
            keys.revoke(key.split("_")[1])
            revoked.set()
            assert status_of(lambda: next(answers))[0] == "UNAUTHENTICATED"

    def test_a_body_is_not_read_before_the_check(self, locked, keys):
        """The refusal comes although the message never does."""
        with locked.channel() as channel:
            never = threading.Event()

            def messages() -> Iterator[bytes]:
                never.wait(WAIT)
                yield b""

            call = channel.stream_unary(INFER).future(messages())
            try:
                assert call.exception(WAIT).code() == grpc.StatusCode.UNAUTHENTICATED
            finally:
                never.set()

    def test_a_check_that_fails_lets_nobody_in(self, store):
        class Broken(OpenAccess):
            def caller(self, authorization: str | None, scope: Any) -> Any:
                raise OSError("/secret/place")

        with GrpcGateway({"digits": store / "digits.mar"}, access=Broken()) as server, server.channel() as channel:
            code, details, _ = ask(channel, INFER, "key")
            assert (code, "secret" in details) == ("INTERNAL", False)


class Held:
    """A delivery that answers when it is told to, and remembers what became of its calls."""

    def __init__(self, outcome: Callable[[Call], Reply] | None = None) -> None:
        self.outcome = outcome
        self.calls: list[Call] = []
        self.seconds: list[float] = []
        self.cancelled = 0

    async def deliver(self, call: Call, seconds: float) -> Reply:
        self.calls.append(call)
        self.seconds.append(seconds)
        try:
            if self.outcome is None:
                await asyncio.Event().wait()
            return self.outcome(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture(scope="module")
def waiting(store) -> Iterator[tuple[grpc.Channel, Gateway]]:
    config = GatewayConfig(body_seconds=3, request_seconds=50)
    with GrpcGateway({"digits": store / "digits.mar"}, config) as server, server.channel() as channel:
        yield channel, server.gateway


@pytest.fixture
def held(waiting) -> Held:
    _, gateway = waiting
    gateway.delivery = Held()
    return gateway.delivery


@pytest.fixture
def channel(waiting, held) -> grpc.Channel:
    return waiting[0]


@pytest.fixture
def stub(channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


class TestTime:
    def test_the_clients_deadline_counts(self, stub, held):
        code, _ = status_of(lambda: stub.ModelInfer(images(b"x"), timeout=3))
        assert code == "DEADLINE_EXCEEDED"
        wait_until(lambda: held.cancelled == 1)
        assert 0 < held.seconds[0] <= 3

    def test_no_deadline_is_the_gateways(self, stub, held):
        held.outcome = refuse(GatewayError(BUSY, "full"))
        status_of(lambda: stub.ModelInfer(images(b"x")))
        assert held.seconds == [50]

    @pytest.mark.parametrize("is_stream", [False, True])
    def test_who_hangs_up(self, stub, held, is_stream):
        request = images(b"x")
        call = stub.ModelStreamInfer(iter([request] * 3)) if is_stream else stub.ModelInfer.future(request)
        requests = 3 if is_stream else 1
        wait_until(lambda: len(held.calls) == requests)
        call.cancel()
        wait_until(lambda: held.cancelled == requests)

    def test_a_message_that_does_not_come(self, channel):
        never = threading.Event()

        def messages() -> Iterator[bytes]:
            never.wait(WAIT)
            yield b""

        call = channel.stream_unary(INFER).future(messages())
        try:
            error = call.exception(WAIT)
        finally:
            never.set()
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(error.trailing_metadata())["error-code"] == "request_too_slow"

    def test_no_message_at_all(self, channel):
        code, details = status_of(lambda: channel.stream_unary(INFER)(iter(())))
        assert (code, details) == ("INVALID_ARGUMENT", "the call has no message")


def refuse(error: Exception) -> Callable[[Call], Reply]:
    def outcome(call: Call) -> Reply:
        raise error

    return outcome


class TestRefusals:
    @pytest.mark.parametrize("kind", [BUSY, NOT_READY])
    def test_try_again(self, stub, held, kind):
        held.outcome = refuse(GatewayError(kind, "not now", retry_after=1.2))
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(images(b"x"))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "not now")
        trailing = dict(caught.value.trailing_metadata())
        assert (trailing["retry-after"], trailing["error-code"]) == ("2", kind.code)

    def test_a_mistake_of_ours_is_not_told(self, stub, held, caplog):
        held.outcome = refuse(RuntimeError("/secret/place"))
        code, details = status_of(lambda: stub.ModelInfer(images(b"x")))
        assert (code, "secret" in details) == ("INTERNAL", False)
        assert "/secret/place" in caplog.text
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ModelStreamInfer(iter([images(b"x")])))
        assert caught.value.code() == grpc.StatusCode.INTERNAL

    def test_an_answer_of_another_form(self, stub, held):
        held.outcome = lambda call: Reply(status=200, body=b'{"label": "3"}')
        code, details = status_of(lambda: stub.ModelInfer(images(b"x")))
        assert (code, "package it again" in details) == ("UNIMPLEMENTED", True)

    def test_what_reaches_the_handler(self, stub, held):
        held.outcome = lambda call: Reply(status=413, body=b'{"error": "too large"}')
        metadata = (("traceparent", "00-1-2-03"), ("x-request-id", "r1"), ("authorization", "Bearer secret"))
        code, details = status_of(lambda: stub.ModelInfer(images(b"x"), metadata=metadata))
        assert (code, details) == ("RESOURCE_EXHAUSTED", "too large")
        (call,) = held.calls
        assert {"traceparent": "00-1-2-03", "x-request-id": "r1"}.items() <= call.headers.items()
        assert "secret" not in str(call.headers)

    def test_every_status_of_the_host_has_its_word(self):
        named = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED"}
        named |= {503: "UNAVAILABLE", 500: "INTERNAL", 422: "INVALID_ARGUMENT", 507: "INTERNAL"}
        assert {status: status_name(status) for status in named} == named
        for body in (b'{"error": "e"}', b'{"error": {"code": "c", "message": "e"}}', b'{"code": 503, "message": "e"}'):
            assert error_of(Reply(status=503, body=body)).message == "e"
        for body in (b"", b"[]", b'"e"', b"null"):
            assert "503" in error_of(Reply(status=503, body=body)).message


LARGEST = 100_000


@pytest.fixture(scope="module")
def small(store):
    with GrpcGateway({"digits": store / "digits.mar"}, GatewayConfig(max_request_bytes=LARGEST)) as server:
        yield server


class TestSize:
    def message(self, size: int) -> bytes:
        """A request of exactly so many bytes, whose picture is none."""
        rest = len(images(b"\0" * size).SerializeToString()) - size
        content = images(b"\0" * (size - rest)).SerializeToString()
        assert len(content) == size
        return content

    def test_the_largest_is_read(self, small):
        with small.channel() as channel:
            assert ask(channel, INFER, content=self.message(LARGEST))[0] == "INVALID_ARGUMENT"

    def test_a_larger_one_is_not(self, small, image, caplog):
        with small.channel() as channel, caplog.at_level("INFO", "marquee.gateway.access"):
            for size in (LARGEST + 1, 50 * LARGEST):
                assert ask(channel, INFER, content=self.message(size))[0] == "RESOURCE_EXHAUSTED"
            assert ask(channel, INFER, content=images(image).SerializeToString())[0] == "OK"
            wait_until(lambda: caplog.text.count("status=RESOURCE_EXHAUSTED") == 2)
        assert 'peer=""' not in caplog.text

    def test_nor_one_that_is_larger_when_it_is_unpacked(self, small):
        with small.channel() as channel:
            content = self.message(50 * LARGEST)
            assert ask(channel, INFER, content=content, compression=grpc.Compression.Gzip)[0] == "RESOURCE_EXHAUSTED"

    def test_the_client_is_told_how_large(self, small):
        from marquee import Client

        client = Client.gateway(f"http://127.0.0.1:{small.port - 1}", grpc=small.address)
        assert client.predict_grpc("digits", b"\0" * LARGEST).status == 413


def test_a_client_that_asks_whether_the_server_is_there(locked, keys):
    """TorchServe cuts it after three of its pings."""
    options = (("grpc.keepalive_time_ms", 1_100), ("grpc.http2.max_pings_without_data", 0))
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait(WAIT)
        yield from ()

    metadata = [("authorization", f"Bearer {keys.add('pings')}")]
    with locked.channel(*options) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(messages(), metadata=metadata)
        with pytest.raises(grpc.FutureTimeoutError):
            call.exception(6)
        never.set()
        assert not list(call)


def test_a_stream_that_waits_does_not_hold_the_end_up(store, image):
    """What was sent is answered, then the stream ends; the server stops long before its limit."""
    never = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield images(image)
        never.wait(WAIT)

    with GrpcGateway({"digits": store / "digits.mar"}) as server, server.channel() as channel:
        answers = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        assert not next(answers).error_message
        server.run(asyncio.wait_for(server.server.stop(10 * WAIT), WAIT))
        assert status_of(lambda: next(answers)) == ("UNAVAILABLE", "the gateway is about to stop")
        never.set()


def test_a_port_that_is_taken(locked):
    with pytest.raises(StartError, match=f"gRPC cannot listen on {locked.address}"):
        locked.run(start_grpc(locked.gateway, locked.address, None))


@pytest.fixture(scope="module")
def open_door(store):
    with GrpcGateway({"digits": store / "digits.mar"}) as server, server.channel() as channel:
        yield channel
        assert ask(channel, "/inference.GRPCInferenceService/ServerReady")[0] == "OK"


@pytest.mark.slow
class TestAnyMessage:
    """Whatever comes, the call ends with a status of the table, and the process answers the next one."""

    def test_of_the_open_inference_protocol(self, open_door, image):
        @many(250)
        @given(message=infer_requests(image))
        @example(message=pb.ModelInferRequest())
        def holds(message: pb.ModelInferRequest) -> None:
            check_any(open_door, INFER, message.SerializeToString())

        holds()

    def test_of_torchserve(self, open_door, image):
        @many(250)
        @given(message=predictions_requests(image))
        def holds(message: Any) -> None:
            check_any(open_door, PREDICTIONS, message.SerializeToString())

        holds()

    def test_of_any_bytes(self, open_door, image):
        whole = images(image).SerializeToString()

        @many(250)
        @given(start=st.integers(0, len(whole)), put=st.binary(max_size=4), cut=st.integers(0, 8))
        def holds(start: int, put: bytes, cut: int) -> None:
            check_any(open_door, INFER, whole[:start] + put + whole[start + cut :])

        holds()


def test_the_access_log_names_the_call(locked, keys, image, caplog):
    key = keys.add("logged")
    with caplog.at_level("INFO", "marquee.gateway.access"), locked.channel() as channel:
        content = images(image).SerializeToString()
        assert ask(channel, INFER, key, content)[0] == "OK"
        assert ask(channel, INFER)[0] == "UNAUTHENTICATED"
        wait_until(lambda: "status=UNAUTHENTICATED" in caplog.text)
    good = next(record.getMessage() for record in caplog.records if "status=OK" in record.getMessage())
    assert "name=logged" in good
    assert f"path={INFER}" in good
    assert f"received={len(content)}" in good
    assert key not in caplog.text


def test_probes_of_torchserve_need_no_key(door):
    stub = load_stubs().inference_grpc.InferenceAPIsServiceStub(door)
    assert "Healthy" in stub.Ping(Empty()).health
