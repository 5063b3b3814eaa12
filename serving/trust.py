"""Which certificate a server has to show: the one that its configuration names, even one of one's own making."""

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from marquee.serving.errors import OperationError
from marquee.serving.properties import is_true

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How a client knows its server."""

    certificate: str | None = None
    """The server's own certificate, as PEM: a server that shows it is trusted whatever name it is called by, and no
    other server is. None: any certificate of a public authority, for the name in the URL."""
    grpc_tls: bool | None = None
    """Whether gRPC uses TLS; None: if REST does."""
    client: tuple[Path, Path] | None = None
    """PEM files of the client's own certificate and its private key, for a server that asks for one; None: none."""

    def __post_init__(self) -> None:
        if self.certificate is not None and not self.certificate.startswith(_BEGIN):
            raise ValueError("certificate: expected PEM text")

    @classmethod
    def of_files(cls, certificate: str | Path | None, client: tuple[str | Path, str | Path] | None = None) -> "Trust":
        """Reads what the files contain.

        Args:
            certificate: the server's own; None: one of a public authority is expected.
            client: the client's own certificate and its private key.

        Raises:
            OperationError: a file cannot be read, or does not contain what it should.
        """
        pinned = None if certificate is None else read_certificate(Path(certificate))
        if client is None:
            return cls(certificate=pinned)
        trust = cls(certificate=pinned, client=(Path(client[0]), Path(client[1])))
        trust.context()
        return trust

    def adapter(self) -> HTTPAdapter | None:
        """For a session of :mod:`requests`; None: the session verifies servers as it does anyway."""
        if self.certificate is None and self.client is None:
            return None
        return _ContextAdapter(self.context(), checks_name=self.certificate is None)

    def channel(self, address: str, is_https: bool) -> Any:
        """A gRPC channel.

        Args:
            address: ``HOST:PORT``.
            is_https: whether REST uses TLS: then the token must not be sent in clear text here, unless the server's
                settings say that its gRPC uses none.

        Raises:
            OperationError: the server does not answer, or shows another certificate.
        """
        import grpc  # heavy, and only gRPC callers need it

        options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
        if not (is_https if self.grpc_tls is None else self.grpc_tls):
            return grpc.insecure_channel(address, options=options)
        own = () if self.client is None else tuple(map(_read, reversed(self.client)))  # the key comes first
        if self.certificate is None:
            return grpc.secure_channel(address, grpc.ssl_channel_credentials(None, *own), options=options)
        # A channel cannot leave out the name, so it has to expect the certificate's own.
        options += [("grpc.ssl_target_name_override", name) for name in self._names(address)[:1]]
        credentials = grpc.ssl_channel_credentials(self.certificate.encode("ascii"), *own)
        return grpc.secure_channel(address, credentials, options=options)

    def _names(self, address: str) -> list[str]:
        """The names in the certificate that the server shows, which is this one."""
        parts = urlsplit(f"//{address}")
        try:
            with (
                socket.create_connection((parts.hostname or "", parts.port or 443), timeout=10) as plain,
                self.context(alpn=True).wrap_socket(plain) as secure,
            ):
                shown = secure.getpeercert() or {}
        except OSError as error:
            raise OperationError(f"no answer from {address}: {error}; is the server running?") from error
        names = [str(entry[1]) for entry in shown.get("subjectAltName", ()) if isinstance(entry, tuple)]
        names += [str(pair[0][1]) for pair in shown.get("subject", ()) if pair and pair[0][0] == "commonName"]
        return names

    def context(self, alpn: bool = False) -> ssl.SSLContext:
        """Trusts exactly the server's certificate, or public authorities where none is given; shows the client's own.

        Args:
            alpn: whether to ask for HTTP/2, as gRPC does.

        Raises:
            OperationError: the client's certificate and key are not readable, or do not belong together.
        """
        if self.certificate is None:
            # As the session does without a context, which is told to read nothing from the environment.
            context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # exactly this certificate is trusted, and nobody else has its key
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=self.certificate)
        if self.client is not None:
            _show(context, *self.client)
        if alpn:
            context.set_alpn_protocols(["h2"])
        return context


def read_certificate(path: Path) -> str:
    """The first certificate of a PEM or DER file: the server's own, which others that sign it may follow.

    Raises:
        OperationError: the file cannot be read, or contains none.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise OperationError(f"{path}: the certificate cannot be read: {error.strerror or error}") from error
    return ssl.DER_cert_to_PEM_cert(data) if data.startswith(b"\x30") else _first(data.decode("latin-1"), path)


def trust_of(properties: Mapping[str, str]) -> Trust:
    """What TorchServe settings say about TLS.

    Args:
        properties: the settings, with absolute paths.

    Raises:
        OperationError: they use TLS and name no certificate, or one that cannot be read.
    """
    secure = any(
        properties.get(f"{name}_address", "").lower().startswith("https:") for name in ("inference", "management")
    )
    grpc_tls = is_true(properties, "enable_grpc_ssl")
    if not secure and not grpc_tls:
        return Trust(grpc_tls=False)
    if secure and (store := properties.get("keystore")):
        return Trust(certificate=_from_keystore(Path(store), properties), grpc_tls=grpc_tls)
    if "certificate_file" not in properties or "private_key_file" not in properties:
        # TorchServe would make a new one at each start, which no client could know.
        raise OperationError(
            "TLS without a certificate: name certificate_file and private_key_file, or keystore and keystore_pass, in "
            "the TorchServe settings"
        )
    return Trust(certificate=read_certificate(Path(properties["certificate_file"])), grpc_tls=grpc_tls)


def _first(text: str, path: Path) -> str:
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise OperationError(f"{path}: contains no certificate in PEM format ({_BEGIN})")
    return text[begin : end + len(_END)] + "\n"


def _from_keystore(path: Path, properties: Mapping[str, str]) -> str:
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("keytool", path=str(Path(home) / "bin")) if home else None
    program = program or shutil.which("keytool")
    if program is None:
        raise OperationError(
            f"{path}: reading the certificate of a keystore takes keytool, which a JDK has; install one, or name "
            "certificate_file and private_key_file instead"
        )
    kind = properties.get("keystore_type", "PKCS12")
    command = [program, "-list", "-rfc", "-keystore", str(path), "-storetype", kind, "-storepass:env", "STORE_PASS"]
    # In the environment, because everybody can see arguments.
    environment = {**os.environ, "STORE_PASS": properties.get("keystore_pass", "changeit")}
    listed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    if listed.returncode != 0:
        said = " ".join((listed.stdout or listed.stderr).split())
        raise OperationError(f"{path}: the keystore cannot be read: {said}")
    return _first(listed.stdout, path)


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _read(path)
    try:
        # Without a password; OpenSSL would otherwise ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise OperationError(
            f"{certificate} and {key}: expected a certificate and its unencrypted private key as PEM: {error}"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperationError(f"{path}: cannot be read: {error.strerror or error}") from error


class _ContextAdapter(HTTPAdapter):
    """Verifies with the given context only."""

    def __init__(self, context: ssl.SSLContext, *, checks_name: bool) -> None:
        self._context, self._checks_name = context, checks_name
        super().__init__()

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """With the context in place of the bundle of public authorities, which requests would add."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        attributes = {"cert_reqs": "CERT_REQUIRED", "ssl_context": self._context}
        return host, attributes | ({} if self._checks_name else {"assert_hostname": False})

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing to add to the context."""
