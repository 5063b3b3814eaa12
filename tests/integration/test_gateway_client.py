"""marquee.Client through the gateway, with TLS and keys, in front of a real TorchServe."""

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import marquee
from marquee.gateway.access.certificates import make_certificates
from marquee.gateway.access.keys import KeyStore, id_of
from marquee.gateway.assembly import Doorway
from marquee.gateway.config import GatewayConfig, TlsConfig
from marquee.serving.client import Answer
from marquee.serving.errors import OperationError
from tests.conftest import Served, find_free_port


class Running:
    """The whole gateway in this process, in an event loop of its own."""

    def __init__(self, folder: Path, served: Served) -> None:
        made = make_certificates(folder / "tls", ["localhost", "127.0.0.1"])
        self.certificate, self.authority = made.certificate, made.authority
        self.keys = KeyStore(folder / "keys.json")
        tls = TlsConfig(certificate=made.certificate, key=made.key)
        self.doorway = Doorway.find(GatewayConfig(port=find_free_port(), keys=self.keys.path, tls=tls), 100)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="gateway")
        self.thread.start()
        self._run(self._open(served))

    async def _open(self, served: Served) -> None:
        self.assembly = self.doorway.assemble(served.server)
        await self.assembly.open()

    def close(self) -> None:
        self._run(self.assembly.close(5))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    def client(self, key: str | None) -> marquee.Client:
        return marquee.Client.gateway(self.doorway.listeners.http, key, certificate=self.certificate)

    def client_with(self, *scopes: str, rate: str | None = None) -> marquee.Client:
        return self.client(self.keys.add("-".join(scopes), scopes, rate))


@pytest.fixture(scope="module")
def running(tmp_path_factory, served) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("gateway"), served)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def photo(digits) -> Path:
    return next((digits / "test" / "3").glob("*.png"))


def ask(client: marquee.Client, way: str, data: Path | bytes) -> Answer:
    return (client.predict_grpc if way == "grpc" else client.predict)("digits", data)


WAYS = pytest.mark.parametrize("way", ["rest", "grpc"])


def test_all_addresses_follow_from_the_url():
    addresses = marquee.Client.gateway("https://example.org:8443/", "key").addresses
    assert (addresses.inference, addresses.management, addresses.metrics) == ("https://example.org:8443",) * 3
    assert addresses.grpc_inference == addresses.grpc_management == "example.org:8444"
    assert marquee.Client.gateway("[::1]:9", grpc="other:1").addresses.grpc_inference == "other:1"
    with pytest.raises(OperationError, match="expected the URL"):
        marquee.Client.gateway("ftp://example.org")


@WAYS
def test_an_answer_is_the_servers_own(way, running, served, photo):
    answer = ask(running.client_with("predict"), way, photo)
    assert answer == ask(served.client, way, photo)
    assert answer.error is None


def test_models_are_managed_at_the_same_address(running, served):
    client = running.client_with("manage")
    assert client.list_models() == served.client.list_models()
    (described,) = client.describe("digits", customized=True)
    assert described["modelName"] == "digits"
    assert [worker["status"] for worker in described["workers"]] == ["READY"]
    assert "customizedMetadata" in described
    assert client.scale("digits", 1) == served.client.scale("digits", 1)
    text = requests.get(
        f"{client.addresses.metrics}/metrics",
        headers=client._authorization("inference"),
        verify=running.authority,
        timeout=60,
    ).text
    assert "marquee_" in text


def test_an_explanation_is_another_scope(running, photo):
    data = photo.read_bytes()
    for grpc in (False, True):
        with pytest.raises(OperationError, match=r"the server refuses the token that was given: .*explain"):
            running.client_with("predict").explain("digits", data, method="occlusion", grpc=grpc)
    answer = running.client_with("explain", "predict").explain("digits", data, method="occlusion", grpc=True)
    assert answer.error is None
    assert "explanation" in answer.body


@WAYS
def test_a_key_that_does_not_fit_is_said(way, running, photo):
    for key, said in (
        (None, "the server refuses a request without a token: a key is needed"),
        ("wrong", "the server refuses the token that was given: the key is not known, or was revoked"),
    ):
        with pytest.raises(OperationError, match=said):
            ask(running.client(key), way, photo)
    with pytest.raises(OperationError, match="does not allow predict; it allows manage"):
        ask(running.client_with("manage"), way, photo)


def test_managing_without_the_scope_is_said(running):
    client = running.client_with("predict")
    for action in (client.list_models, lambda: client.describe("digits"), lambda: client.scale("digits", 1)):
        with pytest.raises(OperationError, match="does not allow manage; it allows predict"):
            action()


@WAYS
def test_a_rate_counts_items_and_says_when_to_come_again(way, running, photo):
    client = running.client(running.keys.add(way, rate="6/hour"))
    encoded = base64.b64encode(photo.read_bytes()).decode()
    four = json.dumps({"instances": [{"b64": encoded}] * 4}).encode()
    for data, count in ((photo, None), (four, 4), (photo, None)):
        answer = ask(client, way, data)
        assert answer.error is None
        assert count is None or len(answer.body["predictions"]) == count
    answer = ask(client, way, photo)
    assert answer.status == 429
    assert answer.error.startswith(f"rate_limited: {way} may send 6/hour items; send again in ")


@WAYS
def test_a_key_is_changed_without_a_pause(way, running, photo):
    old = running.keys.add("shop")
    client = running.client(old)
    assert ask(client, way, photo).error is None
    new = running.client(running.keys.add("shop"))
    assert ask(client, way, photo).error is None
    assert ask(new, way, photo).error is None
    running.keys.revoke(id_of(old))
    with pytest.raises(OperationError, match="not known, or was revoked"):
        ask(client, way, photo)
    assert ask(new, way, photo).error is None


@WAYS
def test_an_unknown_model_is_not_found(way, running):
    client = running.client_with("predict")
    answer = (client.predict_grpc if way == "grpc" else client.predict)("nothing", b"x")
    assert (answer.status, "nothing" in answer.error) == (404, True)


def test_keys_are_in_no_log(running, photo, caplog):
    caplog.set_level(logging.DEBUG)
    key = running.keys.add("shop")
    for way in ("rest", "grpc"):
        ask(running.client(key), way, photo)
    assert f"key={id_of(key)} name=shop" in caplog.text
    assert key.rpartition("_")[2] not in caplog.text
