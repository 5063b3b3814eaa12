"""A host of models in this process: the archives' own handler, and requests as TorchServe hands them over."""

import asyncio
import base64
import json
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from ts.protocol.otf_message_handler import _retrieve_inference_msg
from ts.service import Service

from marquee.gateway.access.check import OpenAccess
from marquee.gateway.backend import AbsentError, Call, FullError, LostError, Reply
from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import GatewayError
from marquee.gateway.form_fields import fields_of
from marquee.gateway.in_process import FixedReadiness, InProcess
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import Repeated
from marquee.serving.errors import OperationError

SECONDS = 60.0


@pytest.fixture(scope="module")
def image(digits) -> bytes:
    return next((digits / "test" / "3").iterdir()).read_bytes()


@pytest.fixture(scope="module")
def two_versions(once, run, script) -> Path:
    """A store with two versions of the digits."""

    def fill(folder: Path) -> None:
        for version in ("1.0", "2.0"):
            script("package", run, "--name", "digits", "--version", version, "--store", folder)

    return once("two-versions", fill)


class TestAnswers:
    def test_the_handlers_own(self, two_versions, image):
        async def main() -> None:
            host = InProcess({"digits": [two_versions / "digits-2.0.mar", two_versions / "digits-1.0.mar"]})
            await host.open()
            try:
                await check(host)
            finally:
                await host.close()

        async def check(host: InProcess) -> None:
            for version, answering in ((None, "2.0"), ("1.0", "1.0"), ("2.0", "2.0")):
                reply = await host.ask(Call(model="digits", version=version, body=image), SECONDS)
                document = json.loads(reply.body)
                assert (reply.status, document["label"], document["model"]["version"]) == (200, "3", answering)
            reply = await host.ask(Call(model="digits", body=b"not"), SECONDS)
            assert (reply.status, json.loads(reply.body)["error"]["code"]) == (400, "not_an_image")
            reply = await host.ask(Call(model="digits", body=image, verb="explanations"), SECONDS)
            assert "explanation" in json.loads(reply.body)
            tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(image).decode()]}
            tensor["parameters"] = {"content_type": "base64"}
            document = {"inputs": [tensor], "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
            reply = await host.ask(Call(model="digits", body=json.dumps(document).encode()), SECONDS)
            assert reply.content_type == "application/octet-stream"
            assert reply.body[int(reply.headers["inference-header-content-length"]) :] == b"\x01\x00\x00\x003"
            described = await host.describe("digits", "1.0")
            assert described["model"]["version"] == "1.0"
            assert [tensor["name"] for tensor in described["tensors"]["inputs"]] == ["image"]
            versions = await host.versions()
            assert [(v.name, v.version, v.is_default, v.ready_workers) for v in versions] == [
                ("digits", "2.0", True, 1),
                ("digits", "1.0", False, 1),
            ]
            assert (await host.manage("GET", "/models", {})).status == 501
            assert await host.metrics() == ""
            for name, version in (("digits", "3.0"), ("nothing", None)):
                with pytest.raises(AbsentError):
                    await host.ask(Call(model=name, version=version, body=image), SECONDS)
                with pytest.raises(AbsentError):
                    await host.describe(name, version)

        asyncio.run(main())

    def test_before_and_after(self, two_versions, image):
        async def main() -> None:
            host = InProcess({"digits": two_versions / "digits.mar"})
            call = Call(model="digits", body=image)
            assert [version.ready_workers for version in await host.versions()] == [0]
            with pytest.raises(LostError):
                await host.ask(call, SECONDS)
            await host.open()
            folder = Path(host._models["digits"]["2.0"].model._folder.name)
            assert folder.is_dir()
            await host.close()
            assert not folder.exists()
            with pytest.raises(LostError):
                await host.ask(call, SECONDS)
            assert not FixedReadiness(await host.versions()).is_ready

        asyncio.run(main())

    def test_a_full_queue_and_calls_that_are_given_up(self, two_versions, image):
        async def main() -> None:
            host = InProcess({"digits": two_versions / "digits.mar"}, queue=2)
            await host.open()
            model = host._models["digits"]["2.0"].model
            answer, begun, go_on, answered = model.answer, threading.Event(), threading.Event(), []

            def slowly(call: Call) -> Reply:
                answered.append(call)
                begun.set()
                assert go_on.wait(SECONDS)
                return answer(call)

            model.answer = slowly
            call = Call(model="digits", body=image)
            first = asyncio.create_task(host.ask(call, SECONDS))
            assert await asyncio.to_thread(begun.wait, SECONDS)
            second = asyncio.create_task(host.ask(call, SECONDS))
            await asyncio.sleep(0)
            assert (await host.versions())[0].pending == 2
            with pytest.raises(FullError):
                await host.ask(call, SECONDS)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            with pytest.raises(LostError):  # in the queue behind the first
                await host.ask(call, 0.05)
            go_on.set()
            assert (await first).status == 200
            assert len(answered) == 1
            assert (await host.versions())[0].pending == 0
            await host.close()

        asyncio.run(main())

    def test_what_is_no_archive(self, tmp_path, two_versions):
        (tmp_path / "x.mar").write_bytes(b"nothing")
        for path in (tmp_path / "x.mar", tmp_path / "absent.mar"):
            with pytest.raises(OperationError):
                InProcess({"x": path})

    def test_a_gateway_around_it(self, two_versions, image):
        async def main() -> None:
            host = InProcess({"digits": two_versions / "digits.mar"})
            await host.open()
            gateway = await host.gateway(GatewayConfig(), OpenAccess())
            assert gateway.readiness.is_ready
            assert gateway.unnamed_model() == "digits"
            caller = gateway.access.caller(None, "predict")
            assert (await gateway.ask(Call(model="digits", body=image), caller)).status == 200
            with pytest.raises(GatewayError, match="unknown model"):
                await gateway.ask(Call(model="other", body=image), caller)
            gateway.readiness.draining = True
            assert not gateway.readiness.is_ready
            await host.close()

        asyncio.run(main())


class _Stream:
    """A connection from TorchServe's front end, with one message on it."""

    def __init__(self, message: bytes) -> None:
        self._message = message

    def recv(self, size: int) -> bytes:
        data, self._message = self._message[:size], self._message[size:]
        return data


def as_torchserve_reads(*parts: tuple[str, str, bytes]) -> dict[str, Any]:
    """Fields of a request in TorchServe's worker: by its own code, from its own protocol."""

    def text(value: bytes) -> bytes:
        return struct.pack("!i", len(value)) + value

    end = struct.pack("!i", -1)
    body = b"".join(text(name.encode()) + text(kind.encode()) + text(content) for name, kind, content in parts)
    message = _retrieve_inference_msg(_Stream(text(b"id") + end + body + end + end))
    fields: dict[str, Any] = Service.retrieve_data_for_inference(message)[1][0]
    return {name: bytes(value) if isinstance(value, bytearray) else value for name, value in fields.items()}


class TestFields:
    """As TorchServe's worker has them."""

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("application/json", b'{"b64": "\xc3\xa4"}'),
            ("application/json", b"{"),
            ("application/json", b"[" * 100_000),
            ("application/json", b"\xff"),
            ("text/plain", "ä".encode()),
            ("text/csv", b"\xff"),
            ("image/png", b"{}"),
            ("application/octet-stream", b""),
        ],
    )
    def test_bodies(self, kind, body):
        assert fields_of(body, kind) == as_torchserve_reads(("body", kind, body))

    @pytest.mark.parametrize("header", ["application/json; charset=utf-8", "Application/JSON"])
    def test_the_header_has_more_than_the_type(self, header):
        assert fields_of(b"{}", header) == {"body": {}}

    def test_forms(self):
        parts = {
            "data": ("ä.png", b"\x00\r\n\xff--x", "image/png"),
            "method": (None, "occlusion"),
            "note": ("note.txt", "ä".encode(), "text/plain"),
            "more": ("more.json", b'{"a": 1}', "application/json"),
        }
        prepared = requests.Request("POST", "http://x/", files=parts).prepare()
        body, header = prepared.body, prepared.headers["content-type"]
        assert fields_of(body, header) == as_torchserve_reads(
            ("data", "image/png", parts["data"][1]),
            ("method", "", b"occlusion"),
            ("note", "text/plain", parts["note"][1]),
            ("more", "application/json", parts["more"][1]),
        )
        assert fields_of(b"data=a%2Fb&explain=&x=%FF", "application/x-www-form-urlencoded").keys() == {
            "data",
            "explain",
            "x",
        }
        assert fields_of(b"data=a%2Fb", "application/x-www-form-urlencoded") == {"data": b"a/b"}

    def test_parts_of_the_same_name(self):
        prepared = requests.Request("POST", "http://x/", files=[("data", b"1"), ("data", b"2"), ("x", b"3")]).prepare()
        fields = fields_of(prepared.body, prepared.headers["content-type"])
        assert fields == {"data": Repeated(2), "x": b"3"}

    @pytest.mark.parametrize(
        ("header", "body"),
        [
            ("multipart/form-data", b"--x\r\n\r\n\r\n--x--\r\n"),
            ("multipart/form-data; boundary=x", b"no form"),
            ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 1_001),
        ],
    )
    def test_forms_that_are_none(self, header, body):
        with pytest.raises(InputError) as caught:
            fields_of(body, header)
        assert caught.value.code == "bad_request"
