"""TLS 1.3 for HTTP and gRPC, with certificates of clients where they are wanted."""

import os
import ssl
from pathlib import Path
from typing import Any

from marquee.gateway.config import TlsConfig
from marquee.gateway.errors import StartError

_NO_CIPHER_FOR_TLS_1_2 = "ECDHE-PSK-AES128-CBC-SHA"
"""A cipher of TLS 1.2 that needs a secret which both sides know beforehand, so that no handshake can choose it."""


def http_context(tls: TlsConfig) -> ssl.SSLContext:
    """For uvicorn.

    Raises:
        StartError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            f"{tls.certificate} and {tls.key}: not usable as a certificate and its key: {error}"
        ) from error
    if tls.client_authority is not None:
        try:
            context.load_verify_locations(tls.client_authority)
        except (OSError, ssl.SSLError) as error:
            raise StartError(f"{tls.client_authority}: not usable as an authority of clients: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def allow_only_tls_1_3_for_grpc() -> None:
    """Has to be called before gRPC is used in this process, because it reads the variable once.

    gRPC has no setting for the oldest version of TLS. The list of ciphers is one of TLS 1.2 only: those of TLS 1.3 are
    chosen elsewhere, so a list without a usable one leaves TLS 1.3.
    """
    os.environ["GRPC_SSL_CIPHER_SUITES"] = _NO_CIPHER_FOR_TLS_1_2


def grpc_credentials(tls: TlsConfig) -> Any:
    """``grpc.ServerCredentials``.

    Raises:
        StartError: a file cannot be read.
    """
    import grpc  # heavy

    try:
        pair = tls.key.read_bytes(), tls.certificate.read_bytes()
        authority = None if tls.client_authority is None else tls.client_authority.read_bytes()
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from error
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _no_password(key: Path) -> Any:
    """Nobody is there to type one."""

    def refuse() -> str:
        raise StartError(f"{key}: the key is encrypted; a gateway needs one without a password")

    return refuse
