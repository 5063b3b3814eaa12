"""marquee certificates, and what it makes: used by real servers and clients."""

import json
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from marquee.gateway.access.certificates import make_certificates
from marquee.serving.errors import OperationError


@pytest.fixture(scope="module")
def made(script, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    hosts = ("localhost", "127.0.0.1", "::1")
    shown = script("certificates", folder, "--host", *hosts, "--client", "robot", "--days", 30)
    assert "For development only" in shown.stdout
    assert f"{folder}/server.pem, {folder}/server.key: the gateway's, for localhost, 127.0.0.1, ::1" in shown.stdout
    options = f"--tls-certificate {folder}/server.pem --tls-key {folder}/server.key"
    assert f"{options} --tls-client-authority {folder}/authority.pem\n" in shown.stdout
    return folder


def server_context(folder: Path, asks_for_client: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if asks_for_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "authority.pem")
    return context


def client_context(folder: Path, shows: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if shows is not None:
        context.load_cert_chain(folder / f"{shows}.pem", folder / f"{shows}.key")
    return context


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """Answers every connection that it accepts with one word."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.sendall(b"hello")
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def read(port: int, context: ssl.SSLContext, name: str) -> tuple[bytes, str | None]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        return secure.recv(100), secure.version()


def test_only_the_owner_reads_the_private_keys_and_the_authority_has_none(made):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made.iterdir()}
    assert set(modes) == {"authority.pem", "server.pem", "server.key", "robot.pem", "robot.key"}
    assert {name for name, mode in modes.items() if not mode} >= {"server.key", "robot.key"}
    holders = {path.name for path in made.iterdir() if b"PRIVATE KEY" in path.read_bytes()}
    assert holders == {"server.key", "robot.key"}


def test_they_last_as_long_as_asked(made):
    for name in ("server.pem", "robot.pem"):
        certificate = x509.load_pem_x509_certificate((made / name).read_bytes())
        left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
        assert timedelta(days=29) < left <= timedelta(days=30)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_server_and_its_clients_speak_tls_13(made, name):
    with tls_server(server_context(made, asks_for_client=False)) as port:
        assert read(port, client_context(made), name) == (b"hello", "TLSv1.3")


def test_another_name_or_an_unknown_authority_is_refused(made):
    with tls_server(server_context(made, asks_for_client=False)) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'example.org'"):
            read(port, client_context(made), "example.org")
        with pytest.raises(ssl.SSLCertVerificationError):
            read(port, ssl.create_default_context(), "localhost")


def test_a_client_without_its_certificate_is_refused(made, tmp_path):
    other = make_certificates(tmp_path / "other", ["localhost"], "robot")
    (tmp_path / "mixed").mkdir()
    for name in ("robot.pem", "robot.key"):
        (tmp_path / "mixed" / name).write_bytes((other.authority.parent / name).read_bytes())
    (tmp_path / "mixed" / "authority.pem").write_bytes((made / "authority.pem").read_bytes())
    with tls_server(server_context(made, asks_for_client=True)) as port:
        assert read(port, client_context(made, "robot"), "localhost") == (b"hello", "TLSv1.3")
        for context in (client_context(made), client_context(tmp_path / "mixed", "robot")):
            with pytest.raises(OSError, match=r"(?i)alert|reset|EOF"):
                read(port, context, "localhost")


def test_grpc_takes_them_too(made):
    key, certificate, authority = ((made / name).read_bytes() for name in ("server.key", "server.pem", "authority.pem"))
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"C": echo})])
        credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            own = ((made / name).read_bytes() for name in ("robot.key", "robot.pem"))
            with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority, *own)) as channel:
                assert channel.unary_unary("/a.B/C")(b"hello", timeout=60) == b"hello"
            with (
                grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority)) as channel,
                pytest.raises(grpc.RpcError),
            ):
                channel.unary_unary("/a.B/C")(b"hello", timeout=60)
        finally:
            server.stop(None).wait()


def test_json_names_the_files(script, tmp_path):
    document = json.loads(script("certificates", "tls", "--json", cwd=tmp_path).stdout)
    assert document == {
        "authority": "tls/authority.pem",
        "certificate": "tls/server.pem",
        "key": "tls/server.key",
        "client_certificate": None,
        "client_key": None,
    }
    assert all((tmp_path / path).is_file() for path in document.values() if path)


def test_files_that_are_there_stay_as_they_are(tmp_path):
    made = make_certificates(tmp_path, ["localhost"])
    before = {path: path.read_bytes() for path in made.files}
    with pytest.raises(OperationError, match="exists already"):
        make_certificates(tmp_path, ["localhost"])
    assert {path: path.read_bytes() for path in made.files} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host",), "error: host: expected at least one"),
        (("--host", "a b"), "error: host: not a name or an address: a b"),
        (("--client", "../x"), "error: client: "),
        (("--client", "server"), "error: client: "),
        (("--days", "1000"), "error: days: "),
        ((), "DIR"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_writes_nothing(options, said, script, tmp_path):
    folder = ("tls",) if options else ()
    shown = script("certificates", *folder, *options, cwd=tmp_path, check=False)
    assert shown.returncode == 2
    assert said in shown.stderr
    assert list(tmp_path.iterdir()) == []
