"""Rows of a request, in each of its forms, through the door that the server uses."""

import io
import json
import math
from datetime import date, datetime, timedelta, timezone
from itertools import product

import numpy as np
import pytest

from marquee.handlers.core import json_text
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.payload import parse
from marquee.handlers.core.schema import from_dict, to_dict
from marquee.handlers.inputs.table.cells import Notation
from marquee.handlers.inputs.table.decode import decode_column
from marquee.handlers.inputs.table.options import TextOptions
from marquee.handlers.inputs.table.spec import CODES, FIRST_CATEGORY, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from marquee.handlers.inputs.table.values import category_text, is_missing, parse_boolean, parse_date

SPEC = TableSpec(
    columns=(
        Column(name="carat", kind="number", low=0.2, high=5.0),
        Column(name="cut", kind="category", categories=("Fair", "Ideal", "3")),
        Column(name="price", kind="number", role="target"),
        Column(name="lab", kind="boolean"),
        Column(name="sold", kind="date"),
        Column(name="depth", kind="number", may_be_missing=True),
    )
)
NAMES = ["carat", "cut", "lab", "sold", "depth"]
ROWS = [
    [0.3, "Ideal", True, "2024-02-29", 61.5],
    [1, "Fair", False, "2024-02-29T12:30:00+02:00", None],
    [-2.5e-3, "Good", True, "1969-12-31", -0.0],
    [9007199254740993, "3", False, "2024-02-29T12:30:15.25Z", 0.1],
]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
HEADLESS = """0.3,Ideal,true,2024-02-29,61.5
1,Fair,FALSE,2024-02-29T12:30:00+02:00,
-2.5e-3, Good ,yes,1969-12-31,-0
9007199254740993,3,0,2024-02-29T12:30:15.25Z,.1
"""


def opened(body, spec=SPEC):
    """The batch, and whether its answer is a list."""
    source = spec.create()
    items, is_list = source.opener().items(body)
    batch = source.collate(items)
    source.check(batch.inputs)
    return batch, is_list


def refused(body, spec=SPEC):
    with pytest.raises(InputError) as info:
        opened(body, spec)
    assert "\n" not in info.value.message
    return info.value


def messages(body, spec=SPEC):
    return [error and f"{error.code}: {error.message}" for error in opened(body, spec)[0].errors]


def dump(value):
    return json.dumps(value).encode()


def parquet_of(rows):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    carat, cut, lab, sold, depth = zip(*rows, strict=True)
    columns = {
        "depth": pa.array(depth, pa.float64()),
        "carat": pa.array([float(value) for value in carat]),
        "cut": pa.array(cut),
        "lab": pa.array(lab),
        "sold": pa.array(sold),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


FORMS = {
    "lists": lambda: ROWS,
    "lists as bytes": lambda: dump(ROWS),
    "objects": lambda: RECORDS,
    "objects and lists": lambda: [ROWS[0], *RECORDS[1:3], ROWS[3]],
    "objects in another order": lambda: [dict(reversed(record.items())) for record in RECORDS],
    "with the target": lambda: [record | {"price": "?"} for record in RECORDS],
    "without an optional cell": lambda: [{k: v for k, v in r.items() if v is not None} for r in RECORDS],
    "instances of lists": lambda: {"instances": ROWS},
    "instances of objects": lambda: {"instances": RECORDS, "signature_name": "serving_default"},
    "inputs of lists": lambda: dump({"inputs": ROWS}),
    "inputs of objects": lambda: dump({"inputs": RECORDS, "parameters": {}}),
    "inputs by column": lambda: dump({"inputs": {name: [r[name] for r in RECORDS] for name in reversed(NAMES)}}),
    "dataframe_split": lambda: {"dataframe_split": {"columns": NAMES, "data": ROWS, "index": [7, 8, 9, 10]}},
    "dataframe_records": lambda: dump({"dataframe_records": RECORDS}),
    "JSON lines of objects": lambda: b"\n".join(map(dump, RECORDS)) + b"\r\n\n",
    "JSON lines of lists": lambda: b"\n".join(map(dump, ROWS)),
    "CSV without a header": HEADLESS.encode,
    "CSV with a header": lambda: (",".join(NAMES) + "\n" + HEADLESS).encode(),
    "CSV with a byte order mark": lambda: b"\xef\xbb\xbf" + (",".join(NAMES) + "\n" + HEADLESS).encode(),
    "Parquet": lambda: parquet_of(ROWS),
}


def assert_equal_bits(got, expected):
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        assert got[name].shape == values.shape
        assert got[name].flags.c_contiguous
        assert got[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_have_the_same_bits_in_every_form(form):
    noon = 19782 + 10.5 / 24
    expected = {
        NUMBERS: np.array(
            [
                [0.3, 1, 19782, 61.5],
                [1, 0, noon, math.nan],
                [-2.5e-3, 1, -1, 0.0],
                [9007199254740992, 0, 19782 + 45015.25 / 86400, 0.1],
            ]
        ),
        CODES: np.array([[FIRST_CATEGORY + 1], [FIRST_CATEGORY], [UNSEEN], [FIRST_CATEGORY + 2]]),
    }
    batch, is_list = opened(FORMS[form]())
    assert batch.errors == (None,) * 4
    assert is_list
    assert_equal_bits(batch.inputs, expected)


@pytest.mark.parametrize("copies", [1, 30])
def test_few_rows_and_many_have_the_same_bits(copies):
    few, _ = opened(ROWS)
    many, _ = opened(ROWS * copies)
    assert_equal_bits(many.inputs, {name: np.tile(values, (copies, 1)) for name, values in few.inputs.items()})


def test_a_lone_object_is_one_row_and_everything_else_a_list():
    for body in (RECORDS[0], dump(RECORDS[0]), dump(RECORDS[0]) + b"\n"):
        batch, is_list = opened(body)
        assert (len(batch), is_list) == (1, False)
    for body in ([ROWS[0]], ROWS[0], {"instances": [ROWS[0]]}, HEADLESS.splitlines()[0].encode()):
        batch, is_list = opened(body)
        assert (len(batch), is_list) == (1, True)


def test_a_row_alone_can_be_a_file_or_an_instance():
    source = SPEC.create()
    row = source.opener().file(dump(ROWS[1:2]))
    same = source.opener().instance(RECORDS[1])
    batch = source.collate([row, same])
    assert batch.inputs[NUMBERS][0].tobytes() == batch.inputs[NUMBERS][1].tobytes()
    with pytest.raises(InputError, match="expected one row, got 4"):
        source.opener().file(dump(ROWS))
    with pytest.raises(InputError, match="row 1, column 'carat'"):
        source.opener().instance(["x", *ROWS[0][1:]])


@pytest.mark.parametrize("copies", [1, 10])
def test_a_bad_row_does_not_touch_the_others(copies):
    bad = [
        ["abc", "Ideal", True, "2024-01-01", 1],
        [1, "Ideal", True, "2024-01-01"],
        [1, "Ideal", "yes", "2024-02-30", 1],
        "row",
        {"carat": 1, "cut": "Ideal", "lab": 0, "sold": "2024-01-01", "dept": 1},
        {"carat": 1, "cut": "Ideal", "lab": 0},
        [True, "Ideal", True, "2024-01-01", 1],
        [1, None, True, "2024-01-01", 1],
    ]
    batch, _ = opened([*ROWS, *bad] * copies)
    good = opened(ROWS * copies)[0]
    assert [error is None for error in batch.errors] == ([True] * 4 + [False] * 8) * copies
    assert_equal_bits(batch.inputs, good.inputs)
    assert [f"{error.code}: {error.message}" for error in batch.errors[4:12]] == [
        "bad_value: row 5, column 'carat': expected a number, got \"abc\"",
        "bad_request: row 6: expected 5 cells, got 4",
        "bad_value: row 7, column 'lab': expected true or false, got \"yes\"",
        'bad_request: row 8: expected a list of cells or an object of columns, got "row"',
        "unknown_column: row 9: unknown column \"dept\"; did you mean 'depth'?",
        "missing_column: row 10: column 'sold' is missing; it must have a value in every row",
        "bad_value: row 11, column 'carat': expected a number, got true",
        "missing_value: row 12, column 'cut': a value is missing; each row must have one",
    ]


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "9" * 5000, "-" + "9" * 5000]
)
@pytest.mark.parametrize("rows", [1, 40])
def test_numbers_that_are_not_finite_are_refused_by_row_and_column(number, rows):
    row = dump(ROWS[0]).decode()
    lines = [row] * rows + [row.replace("61.5", number)]
    text = "[" + ",".join(lines) + "]"
    parsed = [text] if len(number) > 4000 else [text, json.loads(text)]  # which Python itself refuses to parse
    for body in ("\n".join(lines), *parsed):
        body = body.encode() if isinstance(body, str) else body
        errors = opened(body)[0].errors
        assert errors[:-1] == (None,) * rows
        assert errors[-1].message.startswith(f"row {rows + 1}, column 'depth': expected a")
        assert errors[-1].code == "bad_value"


def test_the_parser_of_json_does_not_matter(monkeypatch):
    category = TableSpec(columns=(Column(name="x", kind="category", categories=("1e+20", "18446744073709551615")),))
    body = b"[[100000000000000000000], [18446744073709551615], [-0.0], [1E+20], [1e999], [NaN]]"
    usual, _ = opened(body, category)
    assert usual.inputs[CODES][:, 0].tolist() == [2, 3, UNSEEN, 2]
    monkeypatch.setattr(json_text, "orjson", None)
    other, _ = opened(body, category)
    assert_equal_bits(other.inputs, usual.inputs)
    assert [str(error) for error in other.errors] == [str(error) for error in usual.errors]
    assert refused(b"[" * 5000).code == "bad_request"


def test_a_long_value_is_quoted_in_part_and_any_text_can_be_sent_back():
    long, odd, nested, huge = messages([[cell, *ROWS[0][1:]] for cell in ("x" * 10**6, 'a\ud800\n"b', [[1]], 10**400)])
    assert long.endswith(f'expected a number, got "{"x" * 40}..."')
    assert odd.endswith(r'expected a number, got "a?\n\"b"')
    assert nested.endswith("expected a number, got a list")
    assert huge.endswith("got an integer beyond the range of numbers, which is too large")


def test_columns_of_a_whole_table_are_checked_at_once():
    split = {"columns": ["carat", "cut", "lab", "sold"], "data": [row[:4] for row in ROWS]}
    assert np.isnan(opened({"dataframe_split": split})[0].inputs[NUMBERS][:, 3]).all()
    split["columns"] = ["carat", "cut", "lab", "depth"]
    error = refused({"dataframe_split": split})
    assert (error.code, error.status) == ("missing_column", 400)
    assert error.message == "dataframe_split: column 'sold' is missing; it must have a value in every row"
    split["columns"] = ["carat", "cut", "lab", "Sold "]
    assert "unknown column \"Sold \"; did you mean 'sold'?" in refused({"dataframe_split": split}).message
    split["columns"] = ["carat", "carat", "lab", "sold"]
    assert "is there twice" in refused({"dataframe_split": split}).message
    columns = {name: [record[name] for record in RECORDS] for name in NAMES}
    assert refused({"inputs": columns | {"cut": ["Fair"]}}).code == "bad_table"
    assert refused({"inputs": columns | {"cut": "Fair"}}).code == "bad_table"


def test_the_header_of_a_csv_is_known_by_its_names():
    named = opened(b"sold,cut,carat,lab,price\n2024-02-29,Ideal,0.3,true,326\n")[0]
    assert named.inputs[NUMBERS][0, :3].tolist() == [0.3, 1, 19782]
    assert refused(b"sold,cut,carat,lab,weight\n2024-02-29,Ideal,0.3,true,326\n").code == "unknown_column"
    assert refused(b"sold,cut,carat,lab,cut\n2024-02-29,Ideal,0.3,true,326\n").code == "bad_table"
    assert refused(b"sold,cut,carat\n2024-02-29,Ideal,0.3\n").code == "missing_column"


HOUSES = TableSpec(columns=(Column(name="area", kind="number"), Column(name="living_rooms", kind="number")))
TEXTS = TableSpec(
    columns=tuple(Column(name=name, kind="category", categories=("x", "Ares")) for name in ("area", "living_rooms"))
)


@pytest.mark.parametrize(
    ("header", "unknown", "meant"),
    [
        (b"Living_Rooms,Area", "Living_Rooms", "living_rooms"),
        (b"Living Rooms,area", "Living Rooms", "living_rooms"),
        (b" AREA ,living_rooms", "AREA", "area"),
        (b'"Living_Rooms","Area"', "Living_Rooms", "living_rooms"),
        (b"living_room,aera", "living_room", "living_rooms"),
        (b"area,n", "n", None),
        (b"notes,area", "notes", None),
    ],
)
def test_names_spelled_in_another_way_are_no_data(header, unknown, meant):
    error = refused(header + b"\n3,80\n", HOUSES)
    assert error.code == "unknown_column"
    hint = f"did you mean {meant!r}?" if meant else "the model takes 'area', 'living_rooms'"
    assert error.message == f'unknown column "{unknown}"; {hint}'
    if meant and b"aera" not in header:
        assert refused(header + b"\nx,x\n", TEXTS).message == error.message


def test_a_first_row_that_is_no_header_is_a_row():
    for first in (b"80,area", b",Living Rooms", b"NA,area"):
        assert [error is None for error in opened(first + b"\n80,3\n", HOUSES)[0].errors] == [False, True]
    for first in (b"x,area", b"Ares,x", b"y,Rooms"):
        assert opened(first + b"\nx,x\n", TEXTS)[0].errors == (None, None)
    first, second = messages(b"abc,def\n80,3\n", HOUSES)
    assert first == "bad_value: line 1, column 'area': expected a number, got \"abc\""
    assert second is None


def test_a_bad_row_of_a_csv_is_named_by_its_line():
    body = b"carat,cut,lab,sold\n0.3,Ideal,true,2024-02-29\n0.3,Ideal\nabc,Fair,no,2024-02-29\n1,Fair,no,2024-02-28\n"
    good, short, word, last = messages(body)
    assert good is last is None
    assert short.startswith("bad_request: line 3: ")
    assert word == "bad_value: line 4, column 'carat': expected a number, got \"abc\""


def test_a_bad_line_of_json_lines_is_the_error_of_its_row():
    lines = [dump(ROWS[0]), b'{"carat": }', b"oops", b'{"carat": NaN}', dump(RECORDS[1])]
    first, invalid, word, absent, last = messages(b"\n".join(lines))
    assert first is last is None
    assert invalid.startswith("bad_request: row 2: not valid JSON: ")
    assert word.startswith("bad_request: row 3: not valid JSON: ")
    assert absent.startswith("missing_column: row 4: ")


def test_a_wrapper_counts_only_alone():
    spec = TableSpec(columns=(Column(name="instances", kind="number"), Column(name="inputs", kind="number")))
    expected = [[1.0, 2.0]]
    for body in (
        {"instances": 1, "inputs": 2},
        {"instances": [{"instances": 1, "inputs": 2}]},
        {"inputs": [[1, 2]], "parameters": {"a": 1}},
        {"inputs": {"inputs": [2], "instances": [1]}},
    ):
        assert opened(body, spec)[0].inputs[NUMBERS].tolist() == expected
    assert refused({"instances": 1}, spec).message == "instances: expected a list of rows, got 1"
    assert refused({"instances": ROWS, "rows": 1}).message == "expected nothing beside 'instances', got \"rows\""


def test_more_than_the_limits_is_refused():
    spec = TableSpec(columns=SPEC.columns, max_rows=3, max_bytes=400)
    columns = {name: [record[name] for record in RECORDS] for name in NAMES}
    for body in (
        ROWS,
        {"instances": RECORDS},
        {"inputs": columns},
        {"dataframe_split": {"columns": NAMES, "data": ROWS}},
        b"[1]\n[1]\n[1]\n[1]",
        b"1,Fair,no,2024-01-01,1\n" * 4,
    ):
        error = refused(body, spec)
        assert (error.code, error.status) == ("too_many_instances", 413)
        assert "4 rows; at most 3" in error.message
    assert len(opened(b'1,"Fair' + b"\n" * 20 + b'",no,2024-01-01,1\n', spec)[0]) == 1
    error = refused(dump(ROWS[:3]) + b" " * 400, spec)
    assert (error.code, error.status) == ("too_large", 413)
    assert refused(parquet_of(ROWS), TableSpec(columns=SPEC.columns, max_rows=3)).code == "too_many_instances"
    assert spec.create().max_items == 3


@pytest.mark.parametrize("line", [b"\n", b"\r", b'x","\n', b"1\n"])
@pytest.mark.parametrize("first", [b"", b'x"\n'])
def test_more_lines_than_rows_can_have_are_refused_before_they_are_read(line, first):
    spec = TableSpec(columns=SPEC.columns, max_rows=3)
    error = refused(b"1,Fair" + first + line * 10_001, spec)
    assert (error.code, error.status) == ("too_many_instances", 413)
    assert "lines; at most 10000 for 3 rows" in error.message


def test_a_line_of_very_many_cells_is_refused_without_a_look_at_each():
    for body in (b"1,2;" * 2000, b"1;" * 2000, b'"1",' * 2000, b"1," * 2000):
        assert "more than 1000 cells" in refused(body).message
    wide = TableSpec(columns=tuple(Column(name=f"x{i}", kind="number") for i in range(1500)))
    assert len(opened(b",".join([b"1"] * 1500), wide)[0]) == 1


NUMBER = Column(name="price", kind="number")
NAME = Column(name="name", kind="category", categories=("Größe", "x"))


@pytest.mark.parametrize(
    ("stated", "body", "price"),
    [
        ({}, 'price,name\n"1,234",x\n', 1234),
        ({"decimal": "comma"}, 'price,name\n"1,234",x\n', 1.234),
        ({"decimal": "comma"}, '"1,234",x\n', 1.234),
        ({"separator": "semicolon", "decimal": "comma"}, "1,234;x\n", 1.234),
        ({"separator": "semicolon", "thousands": "comma"}, "1,234;x\n", 1234),
    ],
)
def test_a_csv_is_read_as_the_one_that_the_model_was_trained_on(stated, body, price):
    spec = TableSpec(columns=(NUMBER, NAME), text=TextOptions(**stated))
    again = from_dict(TableSpec, json.loads(json.dumps(to_dict(spec))))
    batch, _ = opened(body.encode(), again)
    assert batch.inputs[NUMBERS].tolist() == [[price]]
    assert batch.inputs[CODES].tolist() == [[FIRST_CATEGORY + 1]]


def test_a_csv_is_of_the_stated_encoding_unless_the_server_has_decoded_it():
    for encoding in ("latin-1", "utf-16", "utf-16-be", "utf-8", "auto"):
        spec = TableSpec(columns=(NUMBER, NAME), text=TextOptions(encoding=encoding))
        for sent in {"utf-8", "utf-8-sig", "utf-8" if encoding == "auto" else encoding}:
            batch, _ = opened("price,name\n3,Größe\n".encode(sent), spec)
            assert (batch.errors, batch.inputs[CODES].tolist()) == ((None,), [[FIRST_CATEGORY]])


def test_a_spec_of_an_earlier_bundle_says_nothing_of_text():
    document = to_dict(SPEC)
    del document["text"]
    assert from_dict(TableSpec, document) == SPEC
    assert SPEC.text == TextOptions()


def test_the_target_is_the_column_that_is_predicted():
    assert SPEC.target.name == "price"
    with pytest.raises(ValueError, match="none of them is the target"):
        TableSpec(columns=(NUMBER,)).target  # noqa: B018


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[]", "bad_table"),
        (b'{"instances": []}', "bad_table"),
        (b'{"instances": {}}', "bad_table"),
        (b'{"inputs": {}}', "bad_table"),
        (b'{"inputs": 3}', "bad_table"),
        (b'{"dataframe_split": []}', "bad_table"),
        (b'{"dataframe_split": {"columns": 3, "data": [[1]]}}', "bad_table"),
        (b'{"dataframe_split": {"columns": [3], "data": [[1]]}}', "bad_table"),
        (b"[[1, 2], [3, 4]", "bad_request"),
        (b'[[1, 2]\xff"', "bad_request"),
        (b"[" * 5000 + b"]" * 5000, "bad_request"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "bad_request"),
        (b"PAR1", "bad_table"),
        (7, "bad_table"),
        (None, "bad_table"),
    ],
)
def test_a_body_that_is_no_table_is_refused_as_a_whole(body, code):
    error = refused(body)
    assert (error.code, error.status) == (code, 400)


def test_rows_of_several_requests_make_one_batch():
    source = SPEC.create()
    first, _ = source.opener().items(ROWS)
    second, _ = source.opener().items([*ROWS[:2], ["x", *ROWS[2][1:]], ROWS[3]])
    error = InputError("bad_request", "no body")
    whole = source.collate(first)
    assert np.shares_memory(whole.inputs[NUMBERS], first[0].block.arrays[NUMBERS])
    mixed = source.collate([first[3], second[0], second[1], second[2], error, second[3], first[0]])
    assert [found is None for found in mixed.errors] == [True, True, True, False, False, True, True]
    order = [3, 0, 1, 3, 0]
    assert_equal_bits(mixed.inputs, {name: values[order] for name, values in whole.inputs.items()})
    none = source.collate([error])
    assert len(none) == 0
    source.check(none.inputs)


def test_arrays_without_columns_are_left_out():
    numbers = TableSpec(columns=(Column(name="x", kind="number"),))
    codes = TableSpec(columns=(Column(name="x", kind="category", categories=("a",)),))
    assert list(opened([[1]], numbers)[0].inputs) == [NUMBERS]
    assert list(opened(["a"], codes)[0].inputs) == [CODES]


def test_arrays_of_another_schema_are_refused():
    source = SPEC.create()
    good = SPEC.example(2)
    for bad in (
        {},
        {NUMBERS: good[NUMBERS]},
        good | {NUMBERS: good[NUMBERS].astype(np.float32)},
        good | {NUMBERS: good[NUMBERS][:, :3]},
        good | {CODES: good[CODES][:1]},
        good | {CODES: good[CODES] + 100},
    ):
        with pytest.raises(ValueError, match="expected|schema"):
            source.check(bad)


def test_a_category_has_one_text_in_every_spelling():
    column = Column(name="x", kind="category", categories=("3", "true", "2.5", "NA"), may_be_missing=True)
    typed = [3, 3.0, "3", " 3 ", True, "true", 2.5, "2.5", "NA", None, "", 4, 10**30]
    codes, errors = decode_column(column, typed, None, range(1, 14))
    assert codes.tolist() == [2, 2, 2, 2, 3, 3, 4, 4, 5, MISSING, UNSEEN, UNSEEN, UNSEEN]
    assert not errors
    text = ["3", " 3 ", "true", "2.5", "NA", "", "N/A", "null", "other"]
    codes, errors = decode_column(column, text, Notation(), range(2, 11))
    assert codes.tolist() == [2, 2, 3, 4, 5, MISSING, MISSING, MISSING, UNSEEN]
    assert not errors
    assert category_text(10**30) == category_text(1e30) == "1e+30"


FORMS_OF_A_CELL = [
    (["3", "3.0", "3.", "3.00", " 3.0 "], [3, 3.0]),
    (["2.5", "2.50"], [2.5]),
    ([".5", "0.5"], [0.5]),
    (["-0", "0", "0.0", "-0.0"], [0, 0.0, -0.0]),
    (["true", "True", "TRUE"], [True]),
    (["false", "False"], [False]),
    (["0.00001", "1e-05"], [1e-5]),
    (["18446744073709551615"], [18446744073709551615]),
    (["03"], []),
    (["+3"], []),
    (["1E5"], []),
    (["1.10.2"], []),
    (["2,5"], []),
    (["12345678901234567890123"], []),
    (["12345678901234567890124"], []),
]


def test_numbers_and_booleans_are_one_category_in_every_form():
    groups = [[*texts, *typed] for texts, typed in FORMS_OF_A_CELL]
    names = [{category_text(cell) for cell in cells} for cells in groups]
    assert [len(found) for found in names] == [1] * len(groups)
    categories = tuple(found.pop() for found in names)
    assert len(set(categories)) == len(groups)
    column = Column(name="x", kind="category", categories=categories)
    for number, cells in enumerate(groups, FIRST_CATEGORY):
        for copies in (1, 30):
            codes, errors = decode_column(column, cells * copies, None, range(1000))
            assert (set(codes.tolist()), errors) == ({number}, {})
            texts = [cell for cell in cells if isinstance(cell, str)]
            codes, errors = decode_column(column, texts * copies, Notation(), range(1000))
            assert (set(codes.tolist()), errors) == ({number}, {})


def test_categories_of_an_earlier_bundle_are_known_in_every_spelling():
    column = Column(name="x", kind="category", categories=("1.0", "3.0", "3", "True", "x"))
    codes, _ = decode_column(column, ["1.0", "1", 1, "3.0", 3.0, "3", "True", True, "true", "False"], None, range(10))
    assert codes.tolist() == [2, 2, 2, 3, 4, 4, 5, 5, 5, UNSEEN]


CELLS = [True, False, 0, 1, 3, -0.0, 2.5, math.nan, math.inf, 10**400, None, [], {"a": 1}, date(2024, 2, 29)]
CELLS += [datetime(2024, 2, 29, 12, tzinfo=timezone.utc), 1e300]
WORDS = ["", "x", "3", "2.5", "true", "True", "yes", "0", "NA", "2024-02-29", "1e999", " 3 "]


@pytest.mark.parametrize("may_be_missing", [True, False])
@pytest.mark.parametrize("kind", ["number", "boolean", "date", "category"])
@pytest.mark.parametrize(("cells", "notation"), [([*CELLS, *WORDS], None), (WORDS, Notation())])
def test_many_cells_are_read_as_few_are(kind, cells, notation, may_be_missing):
    categories = ("x", "3", "true") if kind == "category" else ()
    column = Column(name="x", kind=kind, categories=categories, may_be_missing=may_be_missing)
    for pair in product(cells, cells):
        (few, few_errors), (many, many_errors) = (
            decode_column(column, list(pair) * copies, notation, range(100)) for copies in (8, 20)
        )
        assert np.array_equal(np.tile(few[:2], 20), many, equal_nan=True), pair
        assert np.array_equal(few, many[:16], equal_nan=True), pair
        assert [few_errors.get(row) and few_errors[row].message for row in range(16)] == [
            many_errors.get(row) and many_errors[row].message for row in range(16)
        ], pair


def test_text_has_missing_values_where_the_schema_allows_them():
    column = Column(name="x", kind="number", may_be_missing=True)
    cells = ["1,5", "", " NA ", "-3e2", "inf", "0x10", "1_000", "1e999"] + ["2"] * 20
    values, errors = decode_column(column, cells, Notation(decimal=","), range(2, 30))
    assert values[:4].tolist() == pytest.approx([1.5, math.nan, math.nan, -300], nan_ok=True)
    assert values[8:].tolist() == [2.0] * 20
    assert sorted(errors) == [4, 5, 6, 7]
    assert errors[4].message == "line 6, column 'x': expected a number, got \"inf\""
    values, errors = decode_column(Column(name="x", kind="number"), cells[:3], Notation(decimal=","), range(2, 5))
    assert [errors[row].code for row in (1, 2)] == ["missing_value"] * 2


def test_booleans():
    assert [parse_boolean(cell, None) for cell in (True, False, 1, 0, 1.0)] == [True, False, True, False, True]
    assert [parse_boolean(cell, Notation()) for cell in ("Yes", "NO", " true ", "FALSE", "1", "0")] == [True, False] * 3
    for cell, notation in (("true", None), (2, None), (math.nan, None), ("on", Notation()), ("", Notation())):
        with pytest.raises(ValueError, match="expected true"):
            parse_boolean(cell, notation)


def test_dates_are_days_since_1970():
    east = timezone(timedelta(hours=2))
    assert parse_date("1970-01-02") == parse_date(date(1970, 1, 2)) == 1.0
    assert parse_date("1970-01-01 12:00") == parse_date("1970-01-01T13:00+01") == 0.5
    assert parse_date(datetime(2024, 2, 29, 12, 30, tzinfo=east)) == parse_date("2024-02-29T10:30Z")
    assert parse_date(datetime(2024, 2, 29, 12, 30)) == parse_date("2024-02-29T12:30:00.000000000")
    for cell in ("2024", "20240229", "2024-W05-3", "2023-02-29", "29.2.2024", "2024-02-29T24:00", "today", "", 5, True):
        with pytest.raises(ValueError, match="date"):
            parse_date(cell)


def test_what_is_missing_depends_on_the_kind_of_table():
    assert is_missing(None, None)
    assert not any(is_missing(cell, None) for cell in ("", "NA", math.nan, 0, False))
    assert all(is_missing(cell, Notation()) for cell in ("", "  ", "na", "N/A", "NaN", "null", "None"))
    assert not any(is_missing(cell, Notation()) for cell in ("?", "-", "0", "nothing"))


def test_a_request_as_the_server_hands_it_over():
    source = SPEC.create()
    request = parse({"body": ",".join(NAMES) + "\n" + HEADLESS}, source)
    assert (len(request.items), request.is_list) == (4, True)
    request = parse({"data": bytearray(dump(RECORDS[0]))}, source)
    assert (len(request.items), request.is_list) == (1, False)
    (error,) = parse({"body": b"[]"}, source).items
    assert (error.code, error.status) == ("bad_table", 400)
