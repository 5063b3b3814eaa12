"""The Open Inference Protocol's bytes: datatypes, messages with binary data, JSON data, tensors."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.oip.datatypes import (
    DATATYPES,
    DTYPES,
    WireError,
    count_elements,
    pack,
    pack_bytes,
    unpack,
    unpack_bytes,
)
from marquee.handlers.core.oip.elements import Base64, read_data
from marquee.handlers.core.oip.tensor import read_tensor
from marquee.handlers.core.oip.wire import RawTensor, decode_answer, encode_request, join, split, take_raw


@pytest.mark.parametrize("datatype", DTYPES)
def test_datatypes_are_triton_s(datatype):
    assert np.dtype(triton_to_np_dtype(datatype)) == DTYPES[datatype]
    values = np.array([0, 1, 1], DTYPES[datatype])
    raw = pack(values, datatype)
    assert raw == values.tobytes()
    back = unpack(memoryview(raw), datatype, 3)
    assert back.dtype == DTYPES[datatype]
    assert back.tolist() == values.tolist()


def test_the_order_of_bytes():
    assert pack([1, 258], "UINT16") == b"\x01\x00\x02\x01"
    assert pack([1.0], "FP32") == struct.pack("<f", 1)
    assert pack(np.array([1, 258], ">u2"), "UINT16") == b"\x01\x00\x02\x01"


def test_bf16_is_the_upper_half_of_fp32():
    assert unpack(b"\xc0\x3f\x10\xc0", "BF16", 2).tolist() == [1.5, -2.25]
    assert pack([1.5, -2.25], "BF16") == b"\xc0\x3f\x10\xc0"


def test_bytes_are_triton_s():
    elements = [b"", b"\xff\xd8 a file", "é".encode()]
    raw = pack_bytes(elements)
    assert raw == serialize_byte_tensor(np.array(elements, object)).item()
    assert deserialize_bytes_tensor(raw).tolist() == elements
    assert unpack_bytes(raw, 3) == elements
    assert pack_bytes(["é"]) == pack_bytes(["é".encode()])


@pytest.mark.parametrize(
    ("raw", "datatype", "count", "message"),
    [
        (b"\0" * 7, "FP32", 2, "2 elements of FP32 have 8 bytes, got 7"),
        (b"\0" * 8, "FP32", 1, "1 elements of FP32 have 4 bytes, got 8"),
        (b"", "BYTES", 1, "1 elements of BYTES have at least 4 bytes, got 0"),
        (b"\x05\0\0\0abc", "BYTES", 1, "element 1 of 1 should have 5 bytes, 3 are left"),
        (b"\x89PNG\r\n", "BYTES", 1, "is its length there, as four bytes in little-endian order?"),
        (pack_bytes([b"aa", b"b"]), "BYTES", 1, "5 bytes are left after 1 elements"),
        (pack_bytes([b"abcd"]), "BYTES", 2, "the bytes end before element 2 of 2"),
        (b"", "STRING", 1, "expected one of BOOL, UINT8"),
        (b"\0" * 8, "FP64", 10**15, "8000000000000000 bytes, got 8"),
    ],
)
def test_bytes_that_are_no_tensor(raw, datatype, count, message):
    with pytest.raises(WireError) as error:
        unpack(raw, datatype, count)
    assert message in str(error.value)


def test_elements_are_counted_where_nothing_says_how_many():
    assert count_elements(pack_bytes([b"aa", b"", b"b"]), "BYTES") == 3
    assert count_elements(bytes(8), "FP32") == 2
    with pytest.raises(WireError, match="elements of FP32 have 4 bytes each, got 7 bytes"):
        count_elements(bytes(7), "FP32")
    with pytest.raises(WireError, match="the bytes end within element 2"):
        count_elements(pack_bytes([b"aa"]) + b"xx", "BYTES")


@given(st.binary(max_size=40), st.sampled_from(DATATYPES), st.integers(0, 9))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_tensor_or_refused(raw, datatype, count):
    try:
        values = unpack(raw, datatype, count)
    except WireError:
        return
    assert len(values) == count
    if datatype == "BYTES":
        assert pack(values, datatype) == raw


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.text(max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_message_there_and_back(elements, name):
    tensors = [
        RawTensor(name=name, datatype="BYTES", shape=(len(elements),), raw=pack_bytes(elements), parameters={"a": 1}),
        RawTensor(name="y", datatype="FP32", shape=(1, 2), raw=pack([0.5, 1], "FP32")),
    ]
    body, length = encode_request(tensors, id="7", parameters={"b": 2}, outputs=[{"name": "label"}])
    document, rest = split(body, str(length))
    assert document["id"] == "7"
    assert document["parameters"] == {"b": 2, "binary_data_output": True}
    assert document["outputs"] == [{"name": "label"}]
    assert [unpack_bytes(take_raw(document["inputs"], rest)[0], len(elements))] == [elements]
    # An answer has the same form, with outputs.
    answer, length = join({"model_name": "m", "outputs": document["inputs"]}, [rest])
    head, outputs = decode_answer(answer, length)
    assert head == {"model_name": "m"}
    assert [(t.name, t.datatype, t.shape, bytes(t.raw), t.parameters) for t in outputs] == [
        (t.name, t.datatype, t.shape, bytes(t.raw), t.parameters) for t in tensors
    ]


def test_an_answer_of_json_is_packed():
    outputs = [{"name": "x", "datatype": "FP64", "shape": [2], "data": [0.5, None]}]
    outputs.append({"name": "y", "datatype": "BYTES", "shape": [1], "data": ["é"]})
    _, (x, y) = decode_answer(json.dumps({"outputs": outputs}).encode(), None)
    assert np.array_equal(unpack(x.raw, "FP64", 2), [0.5, np.nan], equal_nan=True)
    assert unpack_bytes(y.raw, 1) == ["é".encode()]


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b"{}", "3", "inference-header-content-length: 3, but the body has 2 bytes"),
        (b"{}", "-1", "expected a number of bytes, got '-1'"),
        (b"{}", "two", "expected a number of bytes, got 'two'"),
        (b"{}", "9" * 5000, "expected a number of bytes"),
        (b"{}x", "3", "the first 3 bytes of the body, as inference-header-content-length says, are not valid JSON"),
        (b"[]", None, "expected a JSON object"),
        (b"[" * 100_000, None, "the body is not valid JSON"),
        (b"\xff", None, "the body is not valid JSON"),
        (b"{}", None, "the answer has no outputs"),
        (b'{"outputs": [{"name": "x"}]}', None, "an output lacks what the protocol wants"),
        (b'{"outputs": [5]}', None, "an output lacks what the protocol wants"),
    ],
)
def test_bodies_that_are_no_message(body, length, message):
    with pytest.raises(WireError) as error:
        decode_answer(body, length)
    assert message in str(error.value)


@pytest.mark.parametrize("size", [-1, 1.5, "4", True, None, 2**60])
def test_sizes_that_are_none(size):
    with pytest.raises(WireError, match="binary_data_size"):
        take_raw([{"parameters": {"binary_data_size": size}}], memoryview(b"abcd"))


def test_bytes_belong_to_tensors():
    heads = [{"parameters": {"binary_data_size": 1}}, {"parameters": None}, 5, {"parameters": {"binary_data_size": 3}}]
    parts = take_raw(heads, memoryview(b"abcd"))
    assert [None if part is None else bytes(part) for part in parts] == [b"a", None, None, b"bcd"]
    for rest in (b"abc", b"abcde"):
        with pytest.raises(WireError, match=f"the tensors have 4 bytes together, {len(rest)} follow the document"):
            take_raw(heads, memoryview(rest))


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "expected"),
    [
        ([1, 2, 3, 4], "INT64", [2, 2], [1, 2, 3, 4]),
        ([[1, 2], [3, 4]], "INT64", [2, 2], [1, 2, 3, 4]),
        ([[[1], [2]], [[3], [4]]], "UINT8", [2, 2, 1], [1, 2, 3, 4]),
        ([1, 2.5, None], "FP64", [3], [1, 2.5, np.nan]),
        ([True, False], "BOOL", [2], [True, False]),
        (["a", "", None], "BYTES", [3], ["a", "", ""]),
        ([["a"], ["b"]], "BYTES", [2, 1], ["a", "b"]),
        (["a", "b"], "BYTES", [2, 1], ["a", "b"]),
        ("a", "BYTES", [], ["a"]),
        (["a"], "BYTES", [], ["a"]),
        ("a", "BYTES", [1], ["a"]),
        (7, "INT8", [], [7]),
        ([0.1], "FP32", [1], [float(np.float32(0.1))]),
        ([2**64 - 1], "UINT64", [1], [2**64 - 1]),
        ([-(2**63)], "INT64", [1], [-(2**63)]),
        ([1.5], "FP16", [1], [1.5]),
    ],
)
def test_data_in_json(data, datatype, shape, expected):
    values = read_data(data, datatype, shape)
    assert values.shape == (len(expected),)
    assert values.dtype == (object if datatype == "BYTES" else DTYPES[datatype])
    for value, wanted in zip(values.tolist(), expected, strict=True):
        assert value == wanted or (value != value and wanted != wanted)


def test_base64_that_says_so():
    (element,) = read_data([{"b64": "YQ=="}], "BYTES", [1])
    assert (element, type(element)) == ("YQ==", Base64)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "message"),
    [
        ([1, 2, 3], "INT8", [2, 2], "shape [2, 2] has 4 elements, data has 3"),
        ([], "INT8", [1], "shape [1] has 1 elements, data has 0"),
        ([[1, 2], [3]], "INT8", [2, 2], "expected a flat list, or lists of the shape [2, 2]"),
        ([[1, 2, 3, 4]], "INT8", [2, 2], "lists of the shape [2, 2]"),
        ([[1], [2], [3], [4]], "INT8", [2, 2], "lists of the shape [2, 2]"),
        ([[[1, 2], [3, 4]]], "INT8", [2, 2], "lists of the shape [2, 2]"),
        ([[1, 2], 3, 4], "INT8", [2, 2], "lists of the shape [2, 2]"),
        ([1, [2]], "INT8", [2], "expected integers for INT8, got a list"),
        ([128], "INT8", [1], "INT8 has -128 to 127, got 128"),
        ([-1], "UINT8", [1], "UINT8 has 0 to 255, got -1"),
        ([2**64], "UINT64", [1], "got 18446744073709551616"),
        ([1.0], "INT8", [1], "expected integers for INT8, got 1.0"),
        ([True], "INT8", [1], "expected integers for INT8, got true"),
        ([None], "INT8", [1], "expected integers for INT8, got null"),
        (["1"], "FP32", [1], 'expected numbers for FP32, got "1"'),
        ([True], "FP32", [1], "expected numbers for FP32, got true"),
        ([1e39], "FP32", [1], "a number is beyond the range of FP32"),
        ([70_000], "FP16", [1], "a number is beyond the range of FP16"),
        ([10**400], "FP64", [1], "an integer is beyond the range of FP64"),
        ([1], "BOOL", [1], "expected true and false for BOOL, got 1"),
        ([1], "BYTES", [1], "expected texts for BYTES, got 1"),
        ([{"b64": 1}], "BYTES", [1], "expected texts for BYTES, got an object"),
        ([1.5], "BF16", [1], "BF16 is read from binary data only; send FP32"),
        ({"a": 1}, "FP32", [1], "expected numbers for FP32, got an object"),
    ],
)
def test_data_that_does_not_fit(data, datatype, shape, message):
    with pytest.raises(WireError) as error:
        read_data(data, datatype, shape)
    assert message in str(error.value)


HEAD = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (5, "inputs: expected objects with name, shape, datatype and data, got 5"),
        ({}, "inputs: name: expected a text, got null"),
        ({**HEAD, "name": 3}, "inputs: name: expected a text, got 3"),
        ({"name": "x", "shape": [1], "data": [1]}, 'tensor "x": datatype is missing'),
        ({"name": "x", "datatype": "INT8", "data": [1]}, 'tensor "x": shape is missing'),
        ({"name": "x", "datatype": "INT8", "shape": [1]}, 'tensor "x": data is missing'),
        ({**HEAD, "datatype": "INT128"}, "datatype: expected one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8,"),
        ({**HEAD, "datatype": ["INT8"]}, "got a list"),
        ({**HEAD, "shape": 1}, "shape: expected a list of at most 8 integers, got 1"),
        ({**HEAD, "shape": [1.0]}, "shape: expected a list of at most 8 integers, got [1.0]"),
        ({**HEAD, "shape": [True]}, "got [true]"),
        ({**HEAD, "shape": [1] * 9}, "shape: expected a list of at most 8 integers, got a list"),
        ({**HEAD, "shape": [0], "data": []}, "shape: expected lengths from 1 to"),
        ({**HEAD, "shape": [-1, 1]}, "got [-1, 1]"),
        ({**HEAD, "shape": [10**4000] * 8}, "shape: expected lengths from 1 to"),
        ({**HEAD, "shape": [-1], "data": []}, "data: expected at least one element"),
        ({**HEAD, "parameters": []}, "parameters: expected an object, got a list"),
        (
            {"name": "x", "datatype": "INT8", "shape": [1], "parameters": {"shared_memory_region": "r"}},
            "shared memory is not supported; send the data",
        ),
        (
            {"name": "x", "datatype": "BYTES", "shape": [9], "data": ["a"] * 9},
            "9 items; at most 8 in one request",
        ),
        ({**HEAD, "name": "a" * 500, "shape": [2]}, 'tensor "aaaa'),
    ],
)
def test_heads_that_are_no_tensor(head, message):
    with pytest.raises(InputError) as error:
        read_tensor(head, None, {}, 8)
    assert message in error.value.message
    assert len(error.value.message) < 500


def test_more_texts_than_any_table_has():
    with pytest.raises(InputError, match="more than 3000000 elements") as error:
        read_tensor({"name": "x", "datatype": "BYTES", "shape": [2, 2_000_000], "data": []}, None, {}, 8)
    assert error.value.status == 413


def test_data_and_bytes_exclude_each_other():
    with pytest.raises(InputError, match="both data and binary_data_size are there"):
        read_tensor(HEAD, memoryview(b"a"), {}, 8)


def test_a_tensor_has_its_shape_and_parameters():
    head = {"name": "x", "datatype": "BYTES", "shape": [2, 1], "data": ["YQ==", "Yg=="], "parameters": {"a": 1}}
    read = read_tensor(head, None, {"content_type": "base64"}, 8)
    assert (read.shape, read.parameters, read.shape_is_open) == ((2, 1), {"content_type": "base64", "a": 1}, False)
    assert {type(element) for element in read.column()} == {Base64}
    assert read.column().tolist() == ["YQ==", "Yg=="]
    assert {type(element) for element in read_tensor({**head, "data": ["a", "b"]}, None, {}, 8).column()} == {str}
    raw = read_tensor({"name": "x", "datatype": "BYTES", "shape": []}, memoryview(pack_bytes([b"a"])), {}, 8)
    assert (raw.shape, raw.column().tolist()) == ((), [b"a"])
