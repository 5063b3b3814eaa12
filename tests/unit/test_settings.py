"""TorchServe's settings: what Java reads in a properties file, what is unknown, and which certificate is named."""

import codecs
import shutil
import ssl
import subprocess

import pytest

from marquee.serving.errors import OperationError
from marquee.serving.java_properties import parse, render
from marquee.serving.properties import is_true, read_properties, unknown_settings, with_absolute_paths
from marquee.serving.settings import read_addresses
from marquee.serving.trust import Trust, read_certificate, trust_of

WRITTEN = r"""
# a comment = 1
! another: 2
inference_address = http\://127.0.0.1\:9080
management_address: http://127.0.0.1:9081
   metrics_address http://127.0.0.1:9082
model_store=a \
    b\
    # is no comment
job_queue_size=1
job_queue_size=2
empty
with\ space\:=x\ty
path=C:\\store
\u00e9=\u00fc\ud83d\ude00
equals==a=b:c
""".replace("\n# a", "\r\n# a")


def test_a_file_is_read_as_java_reads_it():
    """The expectations are what java.util.Properties of Java 17 gives."""
    assert parse(WRITTEN) == {
        "inference_address": "http://127.0.0.1:9080",
        "management_address": "http://127.0.0.1:9081",
        "metrics_address": "http://127.0.0.1:9082",
        "model_store": "a b# is no comment",
        "job_queue_size": "2",
        "empty": "",
        "with space:": "x\ty",
        "path": "C:\\store",
        "é": "ü😀",
        "equals": "=a=b:c",
    }


def test_what_is_written_is_read_again():
    values = {"a b": " leading", "c": "trailing ", "d=e": "x=y:z", "é": "ü😀\n\t\\", "#f": "", "vmargs": "-Da=b -Xmx1g"}
    text = render(values)
    assert parse(text) == values
    assert text.isascii()
    assert "vmargs=-Da=b -Xmx1g\n" in text  # TorchServe's launcher reads this one without escapes


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + b"inference_address=http://127.0.0.1:9080\n",
        codecs.BOM_UTF16_LE + "inference_address=http://127.0.0.1:9080\n".encode("utf-16-le"),
        b"inference_address: http://127.0.0.1:9080\r",
        b"inference_address http\\://127.0.0.1\\:9080",
        b"inference_address=http://127.0.0.1:\\\r\n   9080   \r\n",
    ],
)
def test_the_address_is_found(content, tmp_path):
    path = tmp_path / "config.properties"
    path.write_bytes(content)
    assert read_addresses(read_properties(path)).inference == "http://127.0.0.1:9080"


def test_letters_beyond_ascii_may_be_utf_8_or_java_s_own(tmp_path):
    path = tmp_path / "config.properties"
    for encoding in ("utf-8", "latin-1"):
        path.write_text("model_store=modèles\n", encoding)
        assert read_properties(path)["model_store"] == "modèles"


def test_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "config.properties"
    path.write_text("model_store=$$HERE$$/store\nenable_envvars_config=true\nallowed_urls=none\njob_queue_size=3\n")
    with pytest.raises(OperationError, match="model_store: the environment has no variable HERE"):
        read_properties(path)
    monkeypatch.setenv("HERE", "/there")
    monkeypatch.setenv("TS_JOB_QUEUE_SIZE", "7")
    monkeypatch.setenv("TS_ALLOWED_URLS", "https://elsewhere")
    properties = read_properties(path)
    assert (properties["model_store"], properties["job_queue_size"]) == ("/there/store", "7")
    assert properties["allowed_urls"] == "none"  # without use_env_allowed_urls


def test_an_escape_that_is_none_is_named(tmp_path):
    (tmp_path / "c").write_text("a=\\u12")
    with pytest.raises(OperationError, match=r"c: not readable as a configuration: .*four hexadecimal digits"):
        read_properties(tmp_path / "c")


def test_unknown_settings_are_named():
    found = unknown_settings({"inference_adress": "x", "model_store": "y", "Vmargs": "", "mine": "1"})
    assert found == [
        "inference_adress: no setting of TorchServe; did you mean inference_address?",
        "Vmargs: no setting of TorchServe; did you mean vmargs?",
        "mine: no setting of TorchServe",
    ]


def test_our_own_settings_are_all_known():
    from marquee.serving.defaults import PACKAGED_CONFIG

    assert unknown_settings(read_properties(PACKAGED_CONFIG)) == []


def test_a_start_names_an_unknown_setting(script, tmp_path):
    (tmp_path / "config.properties").write_text("inference_adress=http://127.0.0.1:9080\nmodel_store=.\n")
    result = script("serve", "start", "absent", cwd=tmp_path, check=False)
    assert "inference_adress: no setting of TorchServe; did you mean inference_address?" in result.stderr
    assert "absent.mar: not found" in result.stderr


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("TRUE", True), ("yes", False), ("", False)])
def test_booleans_are_java_s(value, expected):
    assert is_true({"a": value}, "a") is expected
    assert is_true({}, "a") is False


class TestCertificates:
    def test_paths_start_at_the_file_that_names_them(self, tmp_path):
        properties = with_absolute_paths({"certificate_file": "tls/a.pem", "keystore": "/k", "vmargs": "x"}, tmp_path)
        assert properties == {"certificate_file": str(tmp_path / "tls/a.pem"), "keystore": "/k", "vmargs": "x"}

    def test_tls_without_a_certificate_is_refused(self):
        assert trust_of({"inference_address": "http://127.0.0.1:1"}).certificate is None
        for properties in ({"inference_address": "https://127.0.0.1:1"}, {"enable_grpc_ssl": "true"}):
            with pytest.raises(OperationError, match="TLS without a certificate: name certificate_file"):
                trust_of(properties)

    def test_a_file_without_a_certificate_is_named(self, tmp_path):
        (tmp_path / "a.pem").write_text("-----BEGIN RSA PRIVATE KEY-----")
        with pytest.raises(OperationError, match=r"a\.pem: contains no certificate in PEM format"):
            read_certificate(tmp_path / "a.pem")
        with pytest.raises(OperationError, match=r"b\.pem: the certificate cannot be read: No such file"):
            read_certificate(tmp_path / "b.pem")

    def test_of_a_chain_only_the_server_s_own_is_trusted(self, tmp_path):
        first, second = (ssl.DER_cert_to_PEM_cert(bytes([0x30, n])) for n in (1, 2))
        (tmp_path / "chain.pem").write_text(f"a comment\n{first}{second}")
        assert read_certificate(tmp_path / "chain.pem") == first
        (tmp_path / "one.der").write_bytes(bytes([0x30, 1]))
        assert read_certificate(tmp_path / "one.der") == first
        with pytest.raises(ValueError, match="certificate: expected PEM text"):
            Trust(certificate="a.pem")

    @pytest.mark.skipif(not (shutil.which("openssl") and shutil.which("keytool")), reason="needs openssl and keytool")
    def test_the_certificate_of_a_keystore(self, tmp_path):
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", "-keyout", "k.pem"]
        subprocess.run([*make, "-out", "c.pem"], cwd=tmp_path, check=True, capture_output=True)
        export = ["openssl", "pkcs12", "-export", "-in", "c.pem", "-inkey", "k.pem", "-passout", "pass:secret"]
        subprocess.run([*export, "-out", "k.p12"], cwd=tmp_path, check=True, capture_output=True)
        properties = {"inference_address": "https://127.0.0.1:1", "keystore": str(tmp_path / "k.p12")}
        trust = trust_of({**properties, "keystore_pass": "secret"})
        assert trust.certificate.split() == read_certificate(tmp_path / "c.pem").split()
        with pytest.raises(OperationError, match=r"k\.p12: the keystore cannot be read: .*password was incorrect"):
            trust_of({**properties, "keystore_pass": "wrong"})
