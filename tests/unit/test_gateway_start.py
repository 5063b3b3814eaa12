"""What a start of the gateway is made of: options, addresses, the record, and the start that brings TorchServe back."""

import json
import os
import socket
import zipfile
from pathlib import Path

import pytest

from marquee.commands.serve_options import GatewayOptions, port_of_platform
from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import StartError
from marquee.gateway.listeners import bind
from marquee.gateway.record import RECORD_FILE, GatewayRecord, recorded, running
from marquee.gateway.status import describe
from marquee.gateway.torchserve.seen import Seen, SeenVersion
from marquee.gateway.torchserve.supervisor import Patience
from marquee.process_start import start_of
from marquee.serving.errors import OperationError


class TestOptions:
    def test_none_is_no_gateway(self, tmp_path):
        assert GatewayOptions().to_config(tmp_path, ["digits"]) is None

    def test_all(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AIP_PREDICT_ROUTE", "/here")
        options = GatewayOptions(
            gateway=8090, gateway_host="::1", cors=("https://example.org",), graphql=True, drain=5, lame_duck=2
        )
        config = options.to_config(tmp_path, ["digits=1.0", "photos"])
        assert (config.port, config.host, config.grpc_port, config.model) == (8090, "::1", None, "digits")
        assert config.keys == tmp_path / "keys.json"
        assert config.routes.predict == "/here"
        assert (config.cors.origins, config.graphql) == (("https://example.org",), True)
        assert (config.drain_seconds, config.lame_duck_seconds) == (5, 2)

    def test_an_only_model_may_be_replaced(self, tmp_path):
        assert GatewayOptions(gateway=1).to_config(tmp_path, ["digits"]).model is None

    @pytest.mark.parametrize(("text", "port"), [(None, None), ("8080", 8080)])
    def test_the_platforms_port(self, text, port, monkeypatch):
        monkeypatch.delenv("AIP_HTTP_PORT", raising=False)
        if text is not None:
            monkeypatch.setenv("AIP_HTTP_PORT", text)
        assert port_of_platform() == port

    @pytest.mark.parametrize("text", ["", "0", "http", "70000"])
    def test_the_platforms_port_is_none(self, text, monkeypatch):
        monkeypatch.setenv("AIP_HTTP_PORT", text)
        with pytest.raises(ValueError, match=f"AIP_HTTP_PORT={text}: expected a port"):
            port_of_platform()


class TestListeners:
    def test_free_ports(self):
        listeners = bind(GatewayConfig(host="0.0.0.0", port=0))
        with listeners.socket:
            port = listeners.socket.getsockname()[1]
            assert listeners.http == f"http://127.0.0.1:{port}"
            assert listeners.grpc_address.startswith("0.0.0.0:")
            assert listeners.grpc == listeners.grpc_address.replace("0.0.0.0", "127.0.0.1")

    @pytest.mark.parametrize("which", ["port", "grpc_port"])
    def test_a_port_that_is_taken(self, which):
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = other.getsockname()[1]
            config = GatewayConfig(**{"port": 0, which: taken})
            with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{taken}: Address already in use"):
                bind(config)

    def test_an_address_of_another_machine(self):
        with pytest.raises(StartError, match="cannot listen on 192.0.2.1:"):
            bind(GatewayConfig(host="192.0.2.1", port=0))

    def test_ipv6(self):
        if not socket.has_ipv6:
            pytest.skip("no IPv6")
        listeners = bind(GatewayConfig(host="::1", port=0))
        with listeners.socket:
            assert listeners.http.startswith("http://[::1]:")
            assert listeners.grpc.startswith("[::1]:")


class TestRecord:
    def record(self, folder: Path, **changes) -> GatewayRecord:
        facts = {
            "folder": folder,
            "pid": os.getpid(),
            "started": start_of(os.getpid()),
            "http": "http://127.0.0.1:9",
        }
        return GatewayRecord(**{**facts, **changes})

    def test_it_is_read_as_it_was_written(self, tmp_path):
        record = self.record(tmp_path, checked=3)
        record.save()
        assert recorded(tmp_path) == record
        assert running(tmp_path).pid == os.getpid()
        assert os.listdir(tmp_path) == [RECORD_FILE]
        record.remove()
        assert recorded(tmp_path) is None
        assert running(tmp_path) is None

    @pytest.mark.parametrize("changes", [{"started": "a boot/1"}, {"pid": 2**22 + 1}], ids=["reused", "ended"])
    def test_of_a_process_that_has_ended(self, changes, tmp_path):
        self.record(tmp_path, **changes).save()
        assert running(tmp_path) is None
        assert describe(tmp_path)["running"] is False

    def test_another_process_keeps_its_record(self, tmp_path):
        other = self.record(tmp_path, pid=1)
        other.save()
        self.record(tmp_path).remove()
        assert recorded(tmp_path) == other

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 3, "unknown": 4}'])
    def test_a_damaged_file_is_none(self, text, tmp_path):
        (tmp_path / RECORD_FILE).write_text(text)
        assert recorded(tmp_path) is None
        assert describe(tmp_path) is None

    def test_a_gateway_that_does_not_answer_is_not_ready(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"http://127.0.0.1:{other.getsockname()[1]}"
        self.record(tmp_path, http=url).save()
        assert describe(tmp_path) == {"pid": os.getpid(), "running": True, "http": url, "grpc": None, "ready": False}


def archive(path: Path, name: str, version: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": name, "modelVersion": version}}))


def seen(version: str, *, name: str = "digits", is_default: bool = True, file: str = "digits.mar") -> SeenVersion:
    return SeenVersion(name=name, version=version, is_default=is_default, archive=file, workers=1)


class TestSeen:
    def test_the_default_comes_first(self, tmp_path):
        for version in ("1.0", "2.0", "3.0"):
            archive(tmp_path / f"digits-{version}.mar", "digits", version)
        versions = (seen("1.0", is_default=False), seen("2.0"), seen("3.0", is_default=False))
        references = Seen(versions=versions).references(tmp_path)
        assert [str(reference) for reference in references] == ["digits=2.0", "digits=1.0", "digits=3.0"]

    def test_an_archive_that_was_replaced_since(self, tmp_path):
        """digits.mar is 2.0 by now; 1.0 stays beside it."""
        archive(tmp_path / "digits.mar", "digits", "2.0")
        archive(tmp_path / "digits-1.0.mar", "digits", "1.0")
        assert seen("1.0").reference(tmp_path).find(tmp_path).name == "digits-1.0.mar"

    def test_an_archive_that_was_replaced_and_not_kept(self, tmp_path):
        archive(tmp_path / "digits.mar", "digits", "2.0")
        with pytest.raises(OperationError, match=r"has no version 1\.0 of digits"):
            seen("1.0").reference(tmp_path)

    def test_a_model_under_another_name(self, tmp_path):
        archive(tmp_path / "digits.mar", "digits", "1.0")
        reference = seen("1.0", name="numbers").reference(tmp_path)
        assert (reference.name, reference.find(tmp_path).name) == ("numbers", "digits.mar")


@pytest.mark.parametrize("settings", [{"delays": ()}, {"delays": (-1.0,)}, {"most_failures": 0}])
def test_patience_that_makes_no_sense(settings):
    with pytest.raises(ValueError, match="expected"):
        Patience(**settings)
