"""Certificates that a client is given as files."""

import subprocess
from pathlib import Path

import pytest
import trustme

import marquee


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = trustme.CA()
    for name in ("one", "other"):
        issued = authority.issue_cert(f"{name}.example")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    (tmp_path / "empty.pem").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("one.pem", "other.key", "expected a certificate and its unencrypted private key"),
        ("one.key", "one.key", "expected a certificate and its unencrypted private key"),
        ("empty.pem", "one.key", "expected a certificate and its unencrypted private key"),
        ("one.pem", "missing.key", "missing.key: cannot be read: No such file"),
    ],
)
def test_a_clients_certificate_that_cannot_be_shown(folder, certificate, key, message):
    with pytest.raises(marquee.OperationError, match=message):
        marquee.Client("https://localhost:1", client_certificate=(folder / certificate, folder / key))


def test_an_encrypted_key_asks_nobody_for_a_password(folder):
    encrypt = ["openssl", "pkey", "-aes256", "-passout", "pass:word"]
    encrypt += ["-in", folder / "one.key", "-out", folder / "e.key"]
    subprocess.run(encrypt, check=True, capture_output=True)
    with pytest.raises(marquee.OperationError, match="unencrypted private key"):
        marquee.Client("https://localhost:1", client_certificate=(folder / "one.pem", folder / "e.key"))
