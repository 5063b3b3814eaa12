"""Tensors of rows, of several labels, and of kinds that say nothing of tensors."""

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marquee.handlers.core.batch import Batch
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.input import InputSpec
from marquee.handlers.core.oip.answer import Form
from marquee.handlers.core.oip.datatypes import DATATYPES, pack, pack_bytes
from marquee.handlers.core.oip.items import open_items
from marquee.handlers.core.oip.request import find_nearly, read_tensors
from marquee.handlers.core.oip.wire import RawTensor
from marquee.handlers.core.output import OutputSpec
from marquee.handlers.core.spec import VariantSpec
from marquee.handlers.inputs.table.spec import Column, TableSpec
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec
from marquee.handlers.outputs.regression import VALUE, RegressionCalibration, RegressionSpec
from tests.conftest import Once, Script
from tests.table_forms import FEATURES, Row, features, flowers, houses, jsonable, make_models
from tests.unit.oip_door import Answer, Door, tensor

MODEL = {"name": "m", "version": "1", "bundle": "sha256:0", "variant": "fp32"}


@pytest.fixture(scope="session")
def folder(once: Once, script: Script) -> Path:
    """Data, runs and archives of :func:`tests.table_forms.make_models`."""
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def homes(folder, tmp_path_factory) -> Door:
    return Door(folder / "store" / "houses.mar", tmp_path_factory.mktemp("houses"))


@pytest.fixture(scope="module")
def plants(folder, tmp_path_factory) -> Door:
    return Door(folder / "store" / "flowers.mar", tmp_path_factory.mktemp("flowers"))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Houses that no model was trained on."""
    return features(houses(40, seed=7))


@pytest.fixture(scope="module")
def expected(homes, rows) -> list[dict]:
    """The answers to them in the general form, which other tests compare with evaluation's."""
    answer = homes.ask({"instances": [jsonable(row) for row in rows]})
    return answer.document["predictions"]


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in map(jsonable, rows)] for name in rows[0]}


def as_json(rows: list[Row], axes: int = 1) -> list[dict[str, Any]]:
    shape = [len(rows)] + [1] * (axes - 1)
    types = {"town": "BYTES", "built": "BYTES", "garden": "BOOL", "rooms": "INT32"}
    return [tensor(name, types.get(name, "FP64"), shape, cells) for name, cells in columns(rows).items()]


def as_raw(rows: list[Row]) -> list[RawTensor]:
    tensors = []
    for name, cells in columns(rows).items():
        datatype = {"town": "BYTES", "built": "BYTES", "garden": "BOOL", "rooms": "UINT8"}.get(name, "FP64")
        values = cells if datatype == "BYTES" else [math.nan if cell is None else cell for cell in cells]
        tensors.append(RawTensor(name=name, datatype=datatype, shape=(len(rows), 1), raw=pack(values, datatype)))
    return tensors


def as_cells(rows: list[Row]) -> list[str]:
    """Texts as in CSV, row by row."""
    words = {None: "", True: "yes", False: "no"}
    return [
        words[cell] if cell is None or isinstance(cell, bool) else str(cell)
        for row in map(jsonable, rows)
        for cell in row.values()
    ]


def assert_equal(answer: Answer, expected: list[dict]) -> None:
    outputs = answer.outputs()
    assert list(outputs) == ["prediction", "interval", "unfamiliar", "error", "answer"]
    assert outputs["prediction"].tolist() == [wanted["value"] for wanted in expected]
    assert outputs["interval"].tolist() == [[wanted["interval"][end] for end in ("low", "high")] for wanted in expected]
    assert outputs["unfamiliar"].tolist() == [bool(wanted["unfamiliar"]) for wanted in expected]
    assert [json.loads(text) for text in outputs["answer"]] == expected
    assert set(outputs["error"]) == {b""}


class TestRows:
    def test_a_tensor_for_each_column(self, homes, rows, expected):
        assert_equal(homes.infer(*as_json(rows)), expected)
        assert_equal(homes.infer(*as_json(rows, axes=2)), expected)
        assert_equal(homes.infer_raw(*as_raw(rows)), expected)
        assert_equal(homes.infer_raw(*reversed(as_raw(rows))), expected)

    def test_one_row(self, homes, rows, expected):
        assert_equal(homes.infer(*as_json(rows[:1])), expected[:1])
        scalars = [{**t, "shape": [], "data": t["data"][0]} for t in as_json(rows[:1])]
        assert_equal(homes.infer(*scalars), expected[:1])

    def test_all_features_as_texts(self, homes, rows, expected):
        cells, shape = as_cells(rows), [len(rows), len(FEATURES)]
        assert_equal(homes.infer(tensor("features", "BYTES", shape, cells)), expected)
        raw = RawTensor(name="input-0", datatype="BYTES", shape=tuple(shape), raw=pack_bytes(cells))
        assert_equal(homes.infer_raw(raw), expected)

    def test_all_features_as_numbers(self, plants):
        """Codes of a category are its texts, so the colour 1 is none that training saw."""
        values = [[1.5, 4.0, 1.0], [3.1, math.nan, 2.0]]
        raw = RawTensor(name="x", datatype="FP64", shape=(2, 3), raw=pack(values, "FP64"))
        outputs = plants.infer_raw(raw).outputs()
        wanted = plants.ask({"instances": [[1.5, 4.0, "1"], [3.1, None, "2"]]}).document["predictions"]
        assert outputs["label"][0].decode() == wanted[0]["label"]
        assert outputs["probability"][0] == wanted[0]["probability"]
        assert outputs["error"][1].decode() == wanted[1]["error"]["message"]
        assert "row 2, column 'width': a value is missing" in wanted[1]["error"]["message"]

    def test_missing_values(self, homes, rows, expected):
        """A column that may be missing may be left out; NaN, null and an empty text mean the same."""
        gone = [{**row, "energy": None} for row in rows]
        wanted = homes.ask({"instances": [jsonable(row) for row in gone]}).document["predictions"]
        assert wanted != expected
        assert_equal(homes.infer(*(t for t in as_json(rows) if t["name"] != "energy")), wanted)
        others = [t for t in as_json(rows) if t["name"] != "energy"]
        assert_equal(homes.infer(*others, tensor("energy", "BYTES", [len(rows)], [""] * len(rows))), wanted)
        assert_equal(homes.infer(*others, tensor("energy", "FP32", [len(rows)], [math.nan] * len(rows))), wanted)

    def test_a_bad_row_among_good_ones(self, homes, rows, expected):
        tensors = as_json(rows[:4])
        tensors[0]["data"][1] = None
        tensors[3]["data"][2] = "yesterday"
        outputs = homes.infer(*tensors).outputs()
        assert [bool(text) for text in outputs["error"]] == [False, True, True, False]
        assert b"row 2, column 'floor area': a value is missing" in outputs["error"][1]
        assert b"row 3, column 'built': expected a date" in outputs["error"][2]
        assert np.isnan(outputs["prediction"]).tolist() == [False, True, True, False]
        assert outputs["prediction"][3] == expected[3]["value"]

    def test_a_text_that_is_no_text(self, homes, rows, expected):
        tensors = as_raw(rows[:3])
        town = next(i for i, t in enumerate(tensors) if t.name == "town")
        tensors[town] = RawTensor(
            name="town",
            datatype="BYTES",
            shape=(3,),
            raw=pack_bytes([rows[0]["town"].encode(), b"\xff", rows[2]["town"].encode()]),
        )
        outputs = homes.infer_raw(*tensors).outputs()
        assert outputs["error"][1] == b"row 2, column 'town': the text is not UTF-8"
        assert outputs["prediction"][[0, 2]].tolist() == [expected[0]["value"], expected[2]["value"]]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: [*t, tensor("colour", "BYTES", [2], ["a", "b"])], 'unknown column "colour"; the model takes'),
            (lambda t: [*t, tensor("room", "INT8", [2], [1, 2])], "unknown column \"room\"; did you mean 'rooms'?"),
            (lambda t: t[1:], "column 'floor area' is missing"),
            (lambda t: [*t, t[0]], 'tensor "floor area" is there twice'),
            (
                lambda t: [{**t[0], "shape": [1], "data": [1.0]}, *t[1:]],
                "column 'floor area' has 1 values, and column 'rooms' 2",
            ),
            (lambda t: [{**t[0], "shape": [1, 2]}, *t[1:]], "expected the shape [N] or [N, 1]"),
            (lambda t: [tensor("x", "FP32", [2, 2], [1, 2, 3, 4])], 'unknown column "x"'),
        ],
        ids=range(7),
    )
    def test_tensors_that_are_not_the_schemas(self, homes, rows, change, message):
        answer = homes.infer(*change(as_json(rows[:2])))
        assert message in answer.error
        assert answer.status == 400

    def test_too_many_rows(self, plants):
        limit = plants.handler.predictor.spec.input.max_rows
        raw = RawTensor(name="x", datatype="FP32", shape=(limit + 1, 3), raw=bytes(12 * (limit + 1)))
        assert plants.infer_raw(raw).error == f"{limit + 1} items; at most {limit} in one request"
        heads = [
            RawTensor(name=name, datatype="FP32", shape=(limit + 1,), raw=bytes(4 * (limit + 1)))
            for name in ("length", "width", "colour")
        ]
        assert plants.infer_raw(*heads).status == 413
        texts = RawTensor(name="colour", datatype="BYTES", shape=(limit + 1,), raw=pack_bytes(["r"] * (limit + 1)))
        assert plants.infer_raw(*heads[:2], texts).status == 413

    def test_as_many_rows_as_may_be(self, plants):
        limit = plants.handler.predictor.spec.input.max_rows
        cells = [cell for row in features(flowers(limit)) for cell in map(str, row.values())]
        raw = RawTensor(name="x", datatype="BYTES", shape=(limit, 3), raw=pack_bytes(cells))
        outputs = plants.infer_raw(raw, outputs=[{"name": "label"}, {"name": "probabilities"}]).outputs()
        assert outputs["probabilities"].shape == (limit, 3)
        assert set(outputs["label"]) == {b"a", b"b", b"c"}

    def test_rows_that_are_called_inputs_are_rows(self, homes, rows, expected):
        """Only members with a name, a datatype and a shape are tensors."""
        for inputs in ([jsonable(row) for row in rows], [list(jsonable(row).values()) for row in rows], columns(rows)):
            assert homes.ask({"inputs": inputs}).document["predictions"] == expected

    def test_a_table_with_such_columns(self):
        """Rows of a table whose columns are called as the protocol's members, but for one."""
        from marquee.handlers.core.payload import parse

        names = ("name", "shape", "data")
        spec = TableSpec(columns=tuple(Column(name=name, kind="category", categories=("a",)) for name in names))
        body = {"inputs": [{"name": "a", "shape": "a", "data": "a"}]}
        assert not any(isinstance(item, InputError) for item in parse({"body": body}, spec.create()).items)

    def test_the_metadata(self, homes, plants):
        (answer,) = homes.batch([{}], [{"describe": "True", "Host": "x"}])
        tensors = answer.document["tensors"]
        assert {t["name"]: t["datatype"] for t in tensors["inputs"]} == {
            "floor area": "FP64",
            "rooms": "FP64",
            "town": "BYTES",
            "built": "BYTES",
            "garden": "BOOL",
            "energy": "FP64",
        }
        assert tensors["outputs"][1] == {"name": "interval", "datatype": "FP64", "shape": [-1, 2]}
        spec = plants.handler.predictor.spec
        names = [t.name for t in spec.output.tensors(spec.variants[0])]
        assert names == ["label", "probability", "probabilities", "abstained", "unfamiliar"]

    def test_a_boolean_that_may_be_missing_has_a_datatype_with_nan(self):
        spec = TableSpec(columns=(Column(name="a", kind="boolean", may_be_missing=True),))
        assert [t.datatype for t in spec.tensors()] == ["FP64"]

    def test_a_schema_of_one_feature_has_one_name(self):
        spec = TableSpec(columns=(Column(name="a", kind="number"),))
        reader = spec.create()
        for name, is_known in (("a", True), ("b", False)):
            tensors = read_tensors({"inputs": [tensor(name, "FP64", [2, 1], [1, 2])]}, memoryview(b""), 9)
            if is_known:
                batch = reader.collate(open_items(tensors, reader))
                assert batch.inputs["numbers"].tolist() == [[1], [2]]
            else:
                with pytest.raises(InputError, match='unknown column "b"'):
                    open_items(tensors, reader)


VARIANT = VariantSpec(name="fp32", engine="exported", precision="fp32", files={"m": "0" * 64})


def encode(spec: OutputSpec, variant: VariantSpec, answers: list[Any]) -> dict[str, dict[str, Any]]:
    form = Form(outputs=tuple((t, False) for t in spec.tensors(variant)))
    return {output["name"]: output for output in json.loads(form.encode(answers, MODEL).body)["outputs"]}


def test_several_labels():
    spec = MultiLabelSpec(labels=("a", "b", "c"), threshold=0.5)
    output = spec.create(VARIANT, None)
    answers = output.predictions({"logits": np.array([[2.0, -2.0, 1.0], [-1.0, -1.0, -1.0]])})
    outputs = encode(spec, VARIANT, [*answers, InputError("empty", "nothing")])
    assert outputs["decisions"] == {
        "name": "decisions",
        "datatype": "BOOL",
        "shape": [3, 3],
        "data": [True, False, True] + [False] * 6,
    }
    assert outputs["label"]["data"] == ["a", "a", ""]
    assert outputs["probabilities"]["data"][6:] == [None] * 3
    assert "distance" not in outputs


def test_a_number_without_an_interval():
    spec = RegressionSpec(target="y", low=0, high=1)
    variant = VariantSpec(name="fp32", engine="exported", precision="fp32", files={"m": "0" * 64}, outputs=(VALUE,))
    answers = spec.create(variant, None).predictions({VALUE: np.array([0.5])})
    assert encode(spec, variant, answers).keys() == {"prediction"}
    fitted = VariantSpec(
        name="fp32",
        engine="exported",
        precision="fp32",
        files={"m": "0" * 64},
        outputs=(VALUE,),
        calibration=RegressionCalibration(half_width=0.25),
    )
    answers = spec.create(fitted, None).predictions({VALUE: np.array([0.5])})
    assert encode(spec, fitted, answers)["interval"]["data"] == [0.25, 0.75]


class Words:
    """A kind of input that says nothing of tensors, and its opener: files are words, JSON is an object around one."""

    codes: dict[str, int] = {}
    max_items = 3

    def opener(self) -> "Words":
        return self

    def file(self, data: bytes) -> str:
        if not data:
            raise InputError("empty", "no word")
        return bytes(data).decode()

    def instance(self, value: Any) -> str:
        return value["word"]

    def items(self, body: Any) -> None:
        return None

    def collate(self, items: list[Any]) -> Batch:
        raise NotImplementedError

    def check(self, arrays: Any) -> None:
        raise NotImplementedError


def opened(*tensors: dict[str, Any]) -> list[Any]:
    return open_items(read_tensors({"inputs": list(tensors)}, memoryview(b""), 3), Words())


def test_a_kind_without_tensors_of_its_own():
    assert [t.as_json() for t in InputSpec().tensors()] == [{"name": "input", "datatype": "BYTES", "shape": [-1]}]
    assert OutputSpec().tensors(VARIANT) == ()
    assert opened(tensor("input", "BYTES", [2], ["one", ' {"word": "two"}'])) == ["one", "two"]
    assert opened(tensor("input", "BYTES", [1], ["b25l"], content_type="base64")) == ["one"]
    bad = opened(tensor("input", "BYTES", [3], ["", '{"word"', "x"]))
    assert [item.code if isinstance(item, InputError) else item for item in bad] == ["empty", "bad_request", "x"]
    (bad,) = opened(tensor("input", "BYTES", [1], ["*"], content_type="base64"))
    assert bad.message.startswith("not valid base64")
    for wrong, message in (
        (tensor("other", "BYTES", [1], ["a"]), 'unknown tensor "other"; the model takes "input"'),
        (tensor("input", "FP32", [1], [1]), "expected BYTES, got FP32"),
        (tensor("input", "BYTES", [4], ["a"] * 4), "4 items; at most 3"),
        (tensor("input", "BYTES", [1, 2], ["a"] * 2), "expected the shape"),
    ):
        with pytest.raises(InputError, match=message):
            opened(wrong)


anything = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4) | st.just("\ud800")
columns_of_any_kind = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["length", "width", "colour", "species", "x", "\ud800"]),
        "datatype": st.sampled_from(DATATYPES),
        "shape": st.sampled_from([[2], [2, 1], [1], [], [2, 3], [-1], [3]]),
        "data": st.lists(anything | st.sampled_from([1.5, 2, "r", True, None]), min_size=1, max_size=6),
    }
)


@given(tensors=st.lists(columns_of_any_kind, min_size=1, max_size=4, unique_by=lambda tensor: tensor["name"]))
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_columns_are_rows_or_refused(plants, tensors):
    answer = plants.infer(*tensors)
    if answer.status != 200:
        assert answer.status in (400, 413)
        assert answer.error
    else:
        assert len({len(output) for output in answer.outputs().values()}) == 1


def test_a_row_that_looks_like_a_tensor_keeps_its_error():
    """Members that no tensor has show that it is a row."""
    assert find_nearly({"body": {"inputs": [{"name": "a", "shape": [1], "data": [1]}]}}) is not None
    assert find_nearly({"body": {"inputs": [{"name": "a", "shape": "round", "price": 1}]}}) is None
    assert find_nearly({"body": {"inputs": [{"name": "a", "data": [1]}]}}) is None


def test_dates_are_texts(homes):
    assert homes.infer(*as_json([{**features(houses(1))[0], "built": date(2000, 2, 29)}])).status == 200
