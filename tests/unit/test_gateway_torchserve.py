"""How TorchServe is asked, and what its own answers mean: against sockets that answer as it does."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme

from marquee.gateway.backend import AbsentError, Call, FullError, LostError, UnreachedError
from marquee.gateway.torchserve.backend import TorchServe
from marquee.gateway.torchserve.description import own_description, read_versions
from marquee.gateway.torchserve.managing import Managing
from marquee.gateway.torchserve.refusals import read_refusal, translate
from marquee.gateway.torchserve.target import Target
from marquee.serving.keys import KeyFile
from marquee.serving.settings import Addresses
from marquee.serving.trust import Trust


def said(status: int, kind: str, message: str) -> bytes:
    """As TorchServe 0.12.0 writes it."""
    return json.dumps({"code": status, "type": kind, "message": message}, indent=2).encode() + b"\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind", "message", "error"),
        [
            (404, "ModelNotFoundException", "Model not found: photos", AbsentError),
            (404, "ModelVersionNotFoundException", "Model version: 3.0 does not exist for model: photos", AbsentError),
            (503, "ServiceUnavailableException", 'Model "photos" Version 1.0 has no worker to serve', FullError),
            (500, "InternalServerException", "Worker died.", LostError),
            (503, "InternalServerException", "Prediction failed", LostError),
            (507, "InternalServerException", "Out of resources", LostError),
        ],
    )
    def test_what_the_front_end_says(self, status, kind, message, error):
        refusal = read_refusal(status, said(status, kind, message))
        with pytest.raises(error) as raised:
            translate(refusal, has_workers=True)
        assert type(raised.value) is error

    def test_a_version_without_workers_is_told_as_a_full_queue_is(self):
        refusal = read_refusal(503, said(503, "ServiceUnavailableException", "has no worker to serve"))
        with pytest.raises(UnreachedError):
            translate(refusal, has_workers=False)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"error": {"code": "inference_failed", "message": "type"}}',
            b'{"code": 503, "type": "InternalServerException", "message": "x", "more": 1}',
            b'"type"',
            b'{"type": ',
            b"",
        ],
    )
    def test_the_handler_s_own_answers_are_none(self, body):
        assert read_refusal(503, body) is None
        assert read_refusal(200, said(503, "InternalServerException", "Worker died.")) is None

    def test_others_have_the_handler_s_form(self):
        refusal = read_refusal(400, said(400, "BadRequestException", "Parameter url is required."))
        reply = translate(refusal, has_workers=True)
        assert (reply.status, json.loads(reply.body)) == (
            400,
            {"error": {"code": "http_400", "message": "Parameter url is required."}},
        )


class TestDescriptions:
    def test_versions_and_workers(self):
        worker = {"id": "9000", "status": "READY", "pid": 12}
        described = [
            {"modelName": "m", "modelVersion": "1.0", "modelUrl": "m.mar", "workers": [worker], "minWorkers": 1},
            {
                "modelName": "m",
                "modelVersion": "2.0",
                "workers": [{"id": "9001", "status": "UNLOADING", "pid": -1}],
                "jobQueueStatus": {"remainingCapacity": 90, "pendingRequests": 10},
            },
        ]
        one, two = read_versions(described, "2.0")
        assert (one.is_default, one.ready_workers, one.archive, one.wanted, one.pending) == (False, 1, "m.mar", 1, 0)
        assert (two.is_default, two.ready_workers, two.archive, two.wanted, two.pending) == (True, 0, None, None, 10)
        assert two.workers[0].pid is None
        assert read_versions(described[:1], None)[0].is_default

    @pytest.mark.parametrize("metadata", [None, "", "{", "[]", "{}"])
    def test_a_handler_that_says_nothing(self, metadata):
        assert own_description({"customizedMetadata": metadata}) is None

    def test_what_a_handler_says_is_a_text(self):
        assert own_description({"customizedMetadata": '{"task": "x"}'}) == {"task": "x"}


class TestManaging:
    @pytest.mark.parametrize(
        ("method", "path", "query", "body", "waits"),
        [
            ("POST", "/models", {"url": "m.mar"}, b"", True),
            ("POST", "/models", {"url": "m.mar", "synchronous": "false"}, b"", False),
            ("POST", "/models", {}, b'{"url": "m.mar", "synchronous": false}', False),
            ("PUT", "/models/m", {"min_worker": "2", "synchronous": "true"}, b"", True),
            ("PUT", "/models/m/1.0", {"synchronous": "TRUE"}, b"", True),
            ("PUT", "/models/m/1.0", {}, b"", False),
            ("PUT", "/models/m/1.0/set-default", {"synchronous": "true"}, b"", False),
            ("GET", "/models", {"synchronous": "true"}, b"", False),
            ("DELETE", "/models/m/1.0", {}, b"", False),
        ],
    )
    def test_what_waits_for_workers(self, method, path, query, body, waits):
        assert Managing(method=method, path=path, query=query, body=body).waits is waits

    def test_it_is_told_not_to_wait(self):
        request = Managing(method="POST", path="/models", query={}, body=b'{"url": "m.mar", "synchronous": true}')
        changed = request.without_waiting()
        assert not changed.waits
        assert changed.query == {"synchronous": "false"}
        assert json.loads(changed.body) == {"url": "m.mar", "synchronous": False}


Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A socket that reads HTTP requests, and answers as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
                self.requests.append((head, body))
                await self.answer(head.encode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def host(answer: Answer, secure: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    found = Host(answer)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=secure, limit=2**24)
    found.url = f"http{'s' if secure else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()


@asynccontextmanager
async def backend(url: str, **options) -> AsyncIterator[TorchServe]:
    found = TorchServe(Target(addresses=Addresses.beside(url, management=url), **options))
    await found.open()
    try:
        yield found
    finally:
        await found.close()


async def good(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    await writer.drain()


async def never(_: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{")
    await writer.drain()
    writer.close()


def call(**options) -> Call:
    return Call(**{"model": "photos", "body": b"data", **options})


class TestAttempts:
    def test_a_connection_is_kept_and_the_request_is_as_it_was(self):
        large = bytes(range(256)) * 12_000

        async def main() -> None:
            async with host(good) as there, backend(there.url) as torchserve:
                for _ in range(20):
                    assert (await torchserve.ask(call(), 10)).body == b"{}"
                headers = {"content-encoding": "gzip", "traceparent": "00-1", "describe": "True", "explain": "True"}
                await torchserve.ask(
                    call(model="a b/c?d", version="1.0", body=large, content_type="image/jpeg", headers=headers), 10
                )
                assert there.connections == 1
                head, body = there.requests[0]
                assert head.startswith("POST /predictions/photos HTTP/1.1\r\n")
                assert body == b"data"
                head, body = there.requests[-1]
                assert head.startswith("POST /predictions/a%20b%2Fc%3Fd/1.0 HTTP/1.1\r\n")
                assert body == large
                lines = [line.lower() for line in head.split("\r\n")]
                assert {"content-type: image/jpeg", "content-encoding: gzip", "traceparent: 00-1"} <= set(lines)
                assert not [line for line in lines if line.startswith(("describe", "explain", "user-agent", "accept"))]
                await torchserve.ask(call(verb="explanations"), 10)
                assert there.requests[-1][0].startswith("POST /explanations/photos HTTP/1.1\r\n")

        asyncio.run(main())

    @pytest.mark.parametrize("answer", [hang_up, half, never])
    def test_no_answer_is_lost(self, answer):
        async def main() -> None:
            async with host(answer) as there, backend(there.url) as torchserve:
                with pytest.raises(LostError) as lost:
                    await torchserve.ask(call(), 0.5)
                assert type(lost.value) is LostError
                assert len(there.requests) == 1, "who sends it again knows whether it may be"

        asyncio.run(main())

    def test_nobody_there_is_told_apart(self):
        async def main() -> None:
            async with host(good) as there:
                url = there.url
            async with backend(url) as torchserve:
                with pytest.raises(UnreachedError):
                    await torchserve.ask(call(), 10)
                with pytest.raises(UnreachedError):
                    await torchserve.versions()
            with pytest.raises(UnreachedError):
                await torchserve.ask(call(), 10)

        asyncio.run(main())

    def test_giving_up_a_host_ends_what_is_under_way(self):
        async def main() -> None:
            async with host(never) as there, backend(there.url) as torchserve:
                asked = [asyncio.create_task(torchserve.ask(call(), 60)) for _ in range(3)]
                while len(there.requests) < 3:
                    await asyncio.sleep(0.01)
                await torchserve.disconnect()
                results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
                assert all(isinstance(result, LostError) for result in results), results
                async with host(good) as other:
                    await torchserve.reconnect(Target(addresses=Addresses.beside(other.url)))
                    assert (await torchserve.ask(call(), 10)).status == 200

        asyncio.run(main())

    def test_too_large_is_said_before_it_is_sent(self):
        async def main() -> None:
            async with host(good) as there, backend(there.url, largest=3) as torchserve:
                reply = await torchserve.ask(call(), 10)
                assert (reply.status, json.loads(reply.body)["error"]["code"]) == (413, "too_large")
                assert there.requests == []

        asyncio.run(main())

    def test_tokens_are_read_when_their_file_changes_and_replaced_when_refused(self, tmp_path):
        path = tmp_path / "key_file.json"

        def write(key: str) -> None:
            path.write_text(json.dumps({kind: {"key": key} for kind in ("inference", "management", "API")}))

        async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
            if head.startswith(b"GET /token?type=inference "):
                write("newest")
            if b"Bearer expired" in head and not head.startswith(b"GET /token"):
                body = said(400, "InvalidKeyException", "Token Authorization failed. Token either incorrect, expired")
                writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
            else:
                await good(head, writer)

        async def main() -> None:
            async with host(answer) as there, backend(there.url, keys=KeyFile(path)) as torchserve:
                with pytest.raises(UnreachedError, match="no key file"):
                    await torchserve.ask(call(), 10)
                for key in ("first", "other1"):
                    write(key)
                    await torchserve.ask(call(), 10)
                    assert f"Bearer {key}" in there.requests[-1][0]
                write("expired")
                replies = await asyncio.gather(*(torchserve.ask(call(), 10) for _ in range(5)))
                assert {reply.status for reply in replies} == {200}
                assert len([head for head, _ in there.requests if head.startswith("GET /token")]) == 1
                assert "Bearer newest" in there.requests[-1][0]

        asyncio.run(main())

    def test_only_the_host_s_own_certificate_is_trusted(self):
        authority = trustme.CA()
        shown, other = authority.issue_cert("models.example"), authority.issue_cert("models.example")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        shown.configure_cert(context)

        async def main() -> None:
            async with host(good, context) as there:
                for certificate, is_good in ((shown, True), (other, False)):
                    pem = certificate.cert_chain_pems[0].bytes().decode()
                    async with backend(there.url, trust=Trust(certificate=pem)) as torchserve:
                        if is_good:
                            assert (await torchserve.ask(call(), 10)).status == 200
                        else:
                            with pytest.raises(UnreachedError, match="does not show the certificate of its settings"):
                                await torchserve.ask(call(), 10)

        asyncio.run(main())
