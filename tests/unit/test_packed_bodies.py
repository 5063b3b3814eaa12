"""Bodies that clients compress: unpacked within limits, or refused by name."""

import base64
import gzip
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from marquee.handlers.core import packing
from marquee.handlers.core.payload import parse, unpack_fields
from marquee.handlers.inputs.image.decode import load
from marquee.handlers.inputs.image.reader import ImageReader
from tests.unit.test_payload import SPEC, b64, pixels, png
from tests.unit.test_table_input import HEADLESS
from tests.unit.test_table_input import SPEC as TABLE


def only(fields: dict):
    """The single item of a request, as pixels or its error."""
    (item,) = pixels(parse(fields, ImageReader(SPEC)))
    return item


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(png()),
        bytearray(gzip.compress(png(), 1)),
        gzip.compress(png()[:20]) + gzip.compress(png()[20:]),  # as block-wise compressors write it
        gzip.compress(png()) + b"\0" * 100,
        zlib.compress(png()),
        zlib.compress(png(), 9),
        gzip.compress(json.dumps({"b64": b64(png())}).encode()),
        gzip.compress(base64.b64encode(png())),
    ],
)
def test_a_packed_body_is_answered_as_its_content(body):
    for name in ("body", "data", "photo"):
        assert np.array_equal(only({name: body}), load(png(), SPEC))


def test_a_packed_list_keeps_its_order():
    body = gzip.compress(json.dumps({"instances": [{"b64": b64(png(level))} for level in (1, 2, 3)]}).encode())
    request = parse({"body": body}, ImageReader(SPEC))
    assert request.is_list
    assert [int(item[0, 0, 0]) for item in pixels(request)] == [1, 2, 3]


def test_settings_within_a_packed_body_are_seen():
    document = {"b64": b64(png()), "method": "occlusion"}
    fields = unpack_fields({"data": gzip.compress(json.dumps(document).encode()), "label": b"3"})
    assert json.loads(fields["data"]) == document
    assert fields["label"] == b"3"


@pytest.mark.parametrize("body", [gzip.compress(png())[:-9], gzip.compress(png())[:12], gzip.compress(png()) + b"tail"])
def test_a_damaged_body_is_named(body):
    error = only({"body": body})
    assert (error.code, error.status) == ("bad_request", 400)
    assert "gzip" in error.message


def test_what_it_unpacks_to_is_bounded(monkeypatch):
    monkeypatch.setattr(packing, "MOST_UNPACKED", 100_000)
    for body in (gzip.compress(b"\0" * 100_001), gzip.compress(b"\0" * 60_000) * 2, zlib.compress(b"\0" * 1_000_000)):
        error = only({"body": body})
        assert (error.code, error.status) == ("too_large", 413)
        assert "100000 bytes" in error.message
    assert only({"body": gzip.compress(b"\0" * 100_000)}).code == "not_an_image"


def test_so_are_the_streams_in_it():
    error = only({"body": gzip.compress(b"") * 5_000})
    assert (error.code, error.status) == ("too_large", 413)


def test_content_keeps_the_limits_of_a_body():
    spec = replace(SPEC, max_bytes=1_000)
    (item,) = parse({"body": gzip.compress(b"\0" * 5_000)}, ImageReader(spec)).items
    assert (item.code, item.status) == ("too_large", 413)


@pytest.mark.parametrize("text", [b"x^2,y\n1,2\n", b"x\x9cy", b"x\x01"])
def test_a_text_that_begins_as_packed_data_does_is_left_alone(text):
    assert packing.unpack(text) == text


def test_rows_of_a_table_may_be_packed_too():
    reader = TABLE.create()
    body = HEADLESS.encode()
    batches = [reader.collate(parse({"body": one}, reader).items) for one in (body, gzip.compress(body))]
    assert len(batches[1].errors) == 4
    for name, values in batches[0].inputs.items():
        assert np.array_equal(batches[1].inputs[name], values, equal_nan=True)
