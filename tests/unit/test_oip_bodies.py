"""Whatever comes as a request of the Open Inference Protocol gets a well-formed answer, and its batch-mates theirs."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marquee.handlers.core.oip.datatypes import DATATYPES, pack_bytes
from marquee.handlers.core.oip.wire import HEADER_LENGTH
from tests.properties import FACTOR
from tests.unit.oip_door import OF_THE_CLIENT, REST, Answer, Door

ANY_FIXTURE = [HealthCheck.function_scoped_fixture]
MANY = settings(max_examples=250 * FACTOR, deadline=None, suppress_health_check=ANY_FIXTURE)
FEWER = settings(max_examples=50 * FACTOR, deadline=None, suppress_health_check=ANY_FIXTURE)


@pytest.fixture(scope="module")
def door(store, tmp_path_factory) -> Door:
    return Door(store / "digits.mar", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def good(digits) -> bytes:
    return next((digits / "test" / "3").glob("*.png")).read_bytes()


names = st.sampled_from(["image", "x", "", "label", "error", "answer", "\ud800", "image "])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-300, 300)
    | st.integers()
    | st.sampled_from([0.0, -0.0, 0.5, 1.0, 255.0, math.nan, math.inf, 1e39, 10**400, 2**63])
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "iVBORw0KGgo=", "data:image/png;base64,iVBORw0KGgo=", "*", "BYTES"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.just("b64"), inner, max_size=3),
    max_leaves=8,
)
lengths = st.integers(0, 4) | st.sampled_from([-1, 8, 64, 65, 2**31, 2**63, 2**100])
shapes = st.lists(lengths, max_size=5) | values
datatypes = st.sampled_from(DATATYPES) | st.sampled_from(DATATYPES) | values
parameters = st.dictionaries(
    st.sampled_from(["content_type", "range", "binary_data_size", "binary_data", "binary_data_output", "other"]),
    st.sampled_from(["base64", 0, 1, 4, 20, 255, True, False, None]) | values,
    max_size=3,
)


@st.composite
def fitting_tensors(draw: st.DrawFn) -> dict[str, Any]:
    """A tensor whose data has the size that its shape says."""
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(st.lists(st.integers(1, 4), max_size=4))
    count = math.prod(shape)
    elements = st.text(max_size=6) if datatype == "BYTES" else st.integers(0, 255) | st.sampled_from([0, 1, True, 0.5])
    data = draw(st.lists(elements, min_size=count, max_size=count))
    return {"name": "image", "datatype": datatype, "shape": shape, "data": data, "parameters": draw(parameters)}


tensors = (
    st.fixed_dictionaries(
        {},
        optional={
            "name": names | values,
            "datatype": datatypes,
            "shape": shapes,
            "data": values,
            "parameters": parameters,
        },
    )
    | st.fixed_dictionaries(
        {"name": names, "datatype": datatypes, "shape": shapes},
        optional={"data": values, "parameters": parameters | values},
    )
    | fitting_tensors()
)
outputs = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["label", "probability", "error", "answer", "x"])}, optional={"parameters": parameters}
    )
    | values,
    max_size=3,
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | fitting_tensors().map(lambda tensor: [tensor]) | values},
    optional={"id": st.text(max_size=4) | values, "outputs": outputs | values, "parameters": parameters | values},
)


def assert_well_formed(answer: Answer, is_protocol: bool) -> None:
    """The protocol's answer, or its error; what is no request of the protocol may have the general form."""
    document = answer.document
    # A mistake of ours would be 500.
    assert answer.status in (200, 400, 413, 501), answer
    if not is_protocol and "predictions" in document:
        assert all("label" in item or item["error"].keys() == {"code", "message"} for item in document["predictions"])
        return
    if answer.status != 200:
        assert document.keys() == {"error"}
        assert isinstance(document["error"], str) or (
            not is_protocol and document["error"].keys() == {"code", "message"}
        )
        return
    if "outputs" not in document:
        assert not is_protocol
        assert "label" in document
        return
    arrays = answer.outputs()
    assert len({len(array) for array in arrays.values()}) == 1
    heads = document["outputs"]
    assert [head["name"] for head in heads] == list(arrays)
    for head in heads:
        assert isinstance(head.get("data"), list) != ("binary_data_size" in head.get("parameters", {}))
    assert (HEADER_LENGTH in answer.headers) == any("data" not in head for head in heads)


def is_recognised(document: Any) -> bool:
    inputs = document["inputs"]
    return bool(
        isinstance(inputs, list)
        and inputs
        and all(isinstance(t, dict) and {"name", "datatype", "shape"} <= t.keys() for t in inputs)
    )


@given(document=documents)
@MANY
@pytest.mark.slow
def test_any_document(door, document):
    answer = door.ask(document, REST)
    assert_well_formed(answer, is_recognised(document))


@given(document=documents)
@FEWER
def test_any_document_beside_a_good_one(door, good, document):
    before, answer, after = door.batch([{"body": good}, {"body": document}, {"body": good}], [REST] * 3)
    assert_well_formed(answer, is_recognised(document))
    assert [(one.status, one.document["label"]) for one in (before, after)] == [(200, "3")] * 2


@given(document=documents, rest=st.binary(max_size=30), length=st.none() | st.integers(-2, 200) | st.text(max_size=3))
@MANY
@pytest.mark.slow
def test_any_document_with_bytes_behind_it(door, document, rest, length):
    text = json.dumps(document, allow_nan=True).encode("utf-8", "replace")
    said = str(len(text) if length is None else length)
    answer = door.ask(text + rest, {**REST, OF_THE_CLIENT: said})
    assert_well_formed(answer, is_protocol=True)


@given(
    content=st.lists(st.binary(max_size=12), min_size=1, max_size=3),
    datatype=st.sampled_from(DATATYPES),
    shape=st.lists(st.integers(1, 4), max_size=4) | st.just([-1]),
    cut=st.integers(-2, 2),
    chosen=outputs,
)
@MANY
@pytest.mark.slow
def test_any_raw_tensor(door, content, datatype, shape, cut, chosen):
    """Bytes that nearly fit: those of elements, with some missing or too many."""
    raw = (
        pack_bytes(content)
        if datatype == "BYTES"
        else b"".join(content).ljust(math.prod(shape) if shape else 1, b"\x80")
    )
    raw = raw[:cut] if cut < 0 else raw + bytes(cut)
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [tensor], "outputs": chosen}).encode("utf-8", "replace")
    answer = door.ask(text + raw, {**REST, OF_THE_CLIENT: str(len(text))})
    assert_well_formed(answer, is_protocol=True)


@given(body=st.binary(max_size=60) | values, length=st.text(max_size=4) | st.integers(0, 60).map(str))
@MANY
def test_any_body_with_the_header(door, body, length):
    assert_well_formed(door.ask(body, {**REST, OF_THE_CLIENT: length}), is_protocol=True)


@given(
    pixels=st.lists(st.sampled_from([0, 1, 2, 128, 255]), min_size=4, max_size=4), white=st.sampled_from([None, 1, 255])
)
@FEWER
def test_json_and_bytes_mean_the_same(door, pixels, white):
    """An image is the same one, or refused in the same words, however its pixels came."""
    given_range = {} if white is None else {"range": white}
    head = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2]}
    raw = np.array(pixels, np.uint8).tobytes()
    text = json.dumps({"inputs": [{**head, "parameters": {**given_range, "binary_data_size": 4}}]}).encode()
    by_bytes = door.ask(text + raw, {**REST, OF_THE_CLIENT: str(len(text))})
    by_json = door.ask({"inputs": [{**head, "data": pixels, "parameters": given_range}]})
    assert by_bytes == by_json
