"""Images that clients send as text or within JSON, in the ways in which they write them."""

import base64
import io
import json
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import parse
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.reader import ImageReader
from tests.unit.test_payload import SPEC, pixels


def picture() -> bytes:
    """A PNG whose base64 has each of the letters that are written in two ways, and padding."""
    noise = np.random.default_rng(7).integers(0, 256, (24, 24), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    data = stream.getvalue() + b"\0"
    return data + b"\0" * ((1 - len(data)) % 3)


PNG = picture()
TEXT = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()
LINES = base64.encodebytes(PNG).decode()
WRITTEN = {
    "plain": TEXT,
    "data URL": f"data:image/png;base64,{TEXT}",
    "data URL without a type": f"data:;base64,{TEXT}",
    "data URL with parameters": f"DATA:image/png;charset=utf-8;BASE64,{TEXT}",
    "data URL, percent-encoded": f"data:image/png;base64,{quote(TEXT, safe='')}",
    "data URL, URL-safe": f"data:image/png;base64,{URL_SAFE}",
    "data URL in lines": f"data:image/png;base64,\n{LINES}",
    "URL-safe": URL_SAFE,
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "without padding": TEXT.rstrip("="),
    "in lines": LINES,
    "in lines of Windows": LINES.replace("\n", "\r\n"),
    "in lines of MIME": "\r\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
    "in indented lines": LINES.replace("\n", "\n    "),
    "with blanks around": f" \t{TEXT}\n",
}


def only(body):
    """The single item of a request with this body, as pixels or its error."""
    (item,) = pixels(parse({"body": body}, ImageReader(SPEC)))
    return item


def test_the_sample_has_what_it_is_for():
    assert {"+", "/", "="} <= set(TEXT)
    assert {"-", "_"} <= set(URL_SAFE)


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_base64_as_it_is_written(text):
    expected = load(PNG, SPEC)
    for body in ({"b64": text}, {"instances": [{"b64": text}]}, text, text.encode(), json.dumps(text).encode()):
        assert np.array_equal(only(body), expected)


@pytest.mark.parametrize(
    "value",
    [
        {"data": TEXT},  # KServe's samples for TorchServe
        {"data": TEXT, "target": 0},
        {"body": TEXT},
        {"image": TEXT},
        {"image_bytes": {"b64": TEXT}},  # TensorFlow Serving, and KServe's transformer
        {"image_bytes": TEXT},
        {"input_1": {"b64": TEXT}, "key": "0"},
        {"data": {"b64": URL_SAFE}},
        {"b64": TEXT, "name": "a.png"},
        TEXT,
    ],
)
def test_members_that_clients_of_other_servers_use(value):
    expected = load(PNG, SPEC)
    assert np.array_equal(only({"instances": [value]}), expected)
    assert np.array_equal(only({"signature_name": "serving_default", "instances": [value]}), expected)
    assert np.array_equal(only(value), expected)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (str(base64.b64encode(PNG)), "base64.b64encode(data).decode()"),
        (str(PNG), "base64.b64encode(data).decode()"),
        (repr(bytearray(PNG)), "base64.b64encode(data).decode()"),
        ("data:image/svg+xml;utf8,<svg/>", "not base64"),
        ("data:image/png;base64", "without a comma"),
        (TEXT.replace("+", " "), "percent-encoded"),
        (TEXT.rstrip("=")[:-1] if len(TEXT.rstrip("=")) % 4 == 2 else TEXT[: len(TEXT) // 4 * 4 - 3], "cut off"),
        (TEXT[:40] + "*" + TEXT[40:], '"*" at letter 41'),
        (TEXT[:40] + "=" + TEXT[40:], '"=" at letter 41'),
        (TEXT[:40] + "\u00e9" + TEXT[41:], "at letter 41"),
    ],
)
def test_what_cannot_be_decoded_says_why(text, hint):
    for body in ({"b64": text}, {"instances": [{"data": text}]}, text):
        error = only(body)
        assert isinstance(error, InputError)
        assert (error.code, error.status) == ("bad_request", 400)
        assert hint in error.message
        assert len(error.message) < 300


@pytest.mark.parametrize("text", ["hello", "text", "AAAA", "x" * 1_000, "\ud800", " ", "bmp", '""', "Qk=="])
def test_a_text_that_is_no_image_is_what_it_was(text):
    assert only(text).code == "not_an_image"


def test_a_text_of_something_else_is_named():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
    pdf = b"%PDF-1.7 and more of it"
    for content, name in ((heic, "HEIC"), (pdf, "PDF")):
        plain = only(content)
        text = only(base64.b64encode(content))
        assert name in text.message
        assert (text.code, text.message) == (plain.code, plain.message)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_no_file_is_taken_for_text(format):
    """Nor is its answer another because of what its first bytes are."""
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, format)
        data = stream.getvalue()
        assert np.array_equal(only(data), load(data, SPEC))
        assert np.array_equal(only(base64.b64encode(data)), load(data, SPEC))


def test_the_limit_is_that_of_the_file_and_not_of_its_text():
    spec = replace(SPEC, max_bytes=len(PNG))
    assert len(TEXT) > spec.max_bytes
    for body in ({"b64": TEXT}, TEXT):
        (item,) = parse({"body": body}, ImageReader(spec)).items
        assert not isinstance(item, InputError)
