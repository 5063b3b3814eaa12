"""What is inferred of the columns of a table, and what people are told of them."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import tyro
from sklearn import datasets

from marquee.handlers.core.schema import from_dict, to_dict
from marquee.handlers.inputs.table.cells import Notation, RawTable
from marquee.handlers.inputs.table.decode import decode
from marquee.handlers.inputs.table.spec import CODES, NUMBERS, Column, TableSpec
from marquee.handlers.inputs.table.text import read_text
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.tasks.tabular.schema import (
    Schema,
    describe,
    infer_schema,
    named,
    read_schema,
    rows_without_target,
    write_schema,
)
from marquee.training.tasks.tabular.table_config import TableConfig

RNG = np.random.default_rng(0)
ROWS = 200
Y = [f"{value:.6f}" for value in RNG.normal(10, 3, ROWS)]
X = [f"{value:.6f}" for value in RNG.normal(0, 1, ROWS)]
ANIMALS = ["cat", "dog", "emu"]


def texts(count=ROWS, /, **columns):
    """A table of text cells, as from a CSV file; cells are repeated until there are enough rows."""
    cells = tuple(tuple((list(values) * count)[:count]) for values in columns.values())
    return RawTable(tuple(columns), cells, range(2, count + 2), Notation())


def infer(table, task="regression", **stated):
    return infer_schema(table, TableConfig(**{"target": "y", **stated}), task, "t.csv")


def with_column(values, task="regression", **stated) -> tuple[Column, list[str]]:
    """What is inferred of a column ``c`` beside a target and a feature, and the notes on it."""
    schema = infer(texts(x=X, c=values, y=Y), task, **stated)
    return next(c for c in schema.spec.columns if c.name == "c"), notes_on(schema, "c")


def notes_on(schema: Schema, column: str) -> list[str]:
    return [note.text for note in schema.notes if note.column == column]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1.5", "-2", "+3e2"], "number"),
        (["0", "1"], "number"),
        (["3", "5", "7"], "number"),
        (["true", "False", "TRUE"], "boolean"),
        (["yes", "no", "NA"], "boolean"),
        (["2024-02-29", "2023-01-31T12:00Z"], "date"),
        (["no", "se", "dk"], "category"),
        (["1", "b"], "category"),
        (["01234", "99999", "4000"], "category"),
        (["0.5", "00.5", "0"], "number"),
    ],
)
def test_cells_tell_the_kind(cells, kind):
    assert with_column(cells)[0].kind == kind


def test_cells_with_types_of_their_own_tell_the_kind():
    cells = {
        "whole": [1, 2, None],
        "text": ["1", "2", "2"],
        "flag": [True, False, None],
        "day": [date(2024, 2, 29), date(2023, 1, 1)],
        "mixed": [1, True, 2.5],
        "odd": [[1], {"a": 2}, b"x"],
        "y": RNG.normal(size=ROWS).tolist(),
    }
    columns = tuple((values * ROWS)[:ROWS] for values in cells.values())
    spec = infer(RawTable(tuple(cells), columns, range(1, ROWS + 1))).spec
    found = {column.name: (column.kind, column.role) for column in spec.columns}
    assert found == {
        "whole": ("number", "feature"),
        "text": ("category", "feature"),
        "flag": ("boolean", "feature"),
        "day": ("date", "feature"),
        "mixed": ("category", "feature"),
        "odd": ("category", "ignore"),
        "y": ("number", "target"),
    }
    assert next(column for column in spec.columns if column.name == "mixed").categories == ("1", "2.5", "true")


def test_leading_zeros_are_explained():
    column, notes = with_column(["01234", "99999", "4000"])
    assert column.categories == ("01234", "4000", "99999")
    assert 'leading zeros, such as "01234"' in notes[0]
    assert with_column(["01234", "99999"], kinds={"c": "number"})[0].kind == "number"


def test_numbers_and_truth_values_as_categories_have_one_spelling():
    assert with_column(["1.0", "3.0", "3", "x"])[0].categories == ("1", "3", "x")
    assert with_column(["2.50", "2.5", "007"], kinds={"c": "category"})[0].categories == ("2.5", "007")
    assert with_column(["True", "False", "true", "unknown"])[0].categories == ("false", "true", "unknown")


def test_a_few_bad_cells_leave_a_number_a_number():
    cells = [*X[:150], "unknown", *X[151:]]
    schema = infer(texts(x=Y[::-1], c=cells, y=Y))
    assert next(column for column in schema.spec.columns if column.name == "c").kind == "number"
    (note,) = notes_on(schema, "c")
    assert '1 of 200 values are no number, the first is "unknown" in line 152; their rows are left out' in note
    # The decoder agrees about the row.
    errors = decode(schema.spec, texts(x=Y[::-1], c=cells, y=Y)).errors
    assert [number for number, error in enumerate(errors) if error] == [150]


def test_many_bad_cells_are_named():
    column, notes = with_column(["1", "2", "3", "4", "many"])
    assert column.kind == "category"
    assert '160 of 200 values are numbers, and the others are not, such as "many"' in notes[0]


def test_dates_of_another_form_are_named():
    column, notes = with_column(["31.12.2024", "01.01.2025"])
    assert column.kind == "category"
    assert "dates only if written as 2024-02-29" in notes[0]


def test_ranges_categories_and_missing_values():
    rows = {
        "n": ["1", "", "-3.5", "9"],
        "b": ["yes", "no", "yes", "yes"],
        "d": ["1970-01-02", "1970-01-04", "1970-01-03", "2000-01-01"],
        "c": ["item10", "item2", "NA", "item1"],
        "y": ["1", "2", "3", ""],
    }
    spec = infer(texts(4, **rows), units={"n": "kg"}, may_be_missing=("b",)).spec
    assert spec.columns == (
        Column(name="n", kind="number", unit="kg", may_be_missing=True, low=-3.5, high=1.0),
        Column(name="b", kind="boolean", may_be_missing=True),
        Column(name="d", kind="date", low=1.0, high=3.0),
        Column(name="c", kind="category", may_be_missing=True, categories=("item2", "item10")),
        Column(name="y", kind="number", role="target", low=1.0, high=3.0),
    )


def test_the_labels_of_a_classification_are_its_categories():
    for cells, labels in (
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["class 10", "class 9"], ("class 9", "class 10")),
        (["yes", "no"], ("no", "yes")),
        (["0.5", "10", "2"], ("0.5", "2", "10")),
    ):
        target = infer(texts(x=X, y=cells), "classification").spec.columns[1]
        assert (target.kind, target.role, target.categories) == ("category", "target", labels)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_rows_without_a_target_are_listed(task):
    table = texts(30, x=X, y=[str(number % 3) for number in range(30)])
    cells = list(table.columns[1])
    cells[4] = " "
    cells[7] = "n/a"
    table = replace(table, columns=(table.columns[0], tuple(cells)))
    schema = infer(table, task)
    bad = rows_without_target(table, schema.spec)
    assert [row.line for row in bad] == [6, 9]
    assert "column 'y'" in bad[0].reason
    assert notes_on(schema, "y")[0] == "2 rows have no value; they are left out"
    with pytest.raises(DataError, match="no column 'y'"):
        rows_without_target(replace(table, names=("x", "z")), schema.spec)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["7"], "same value in every row"),
        (["7", ""], "same value in every row that has one"),
        ([""], "no values"),
        ([str(n) for n in range(1, ROWS + 1)], "row numbers"),
        ([str(n) for n in range(ROWS, 0, -1)], "row numbers"),
        ([f"name {n}" for n in range(ROWS)], "each of its texts is there once"),
        ([f"text {n % 150}" for n in range(ROWS)], "150 distinct texts, more than --table.max-categories (100)"),
    ],
)
def test_columns_that_teach_nothing_are_ignored(values, why):
    column, notes = with_column(values)
    assert column.role == "ignore"
    assert column.categories == ()
    assert why in notes[0]
    assert notes[0].startswith("ignored: ")


@pytest.mark.parametrize(
    "values",
    [
        [str(n * n + 1000) for n in range(ROWS)],  # sorted by it
        [str(n) for n in RNG.permutation(ROWS)],  # all different
        ["x", ""],  # a value or none
        [f"2024-01-{n % 28 + 1:02d}T{n % 24:02d}:{n % 60:02d}" for n in range(ROWS)],
        X,
    ],
)
def test_columns_that_teach_something_are_kept(values):
    column, notes = with_column(values)
    assert (column.role, notes) == ("feature", [])


@pytest.mark.parametrize(
    ("header", "role"), [("", "ignore"), ("Unnamed: 0", "ignore"), ("rowid", "ignore"), ("count", "feature")]
)
def test_an_index_is_known_by_its_name(header, role):
    shuffled = [str(n) for n in RNG.permutation(ROWS)]
    table = texts(**{header: shuffled, "x": X, "y": Y})
    schema = infer(table)
    assert tuple(column.name for column in schema.spec.columns) == named(table).names
    assert schema.spec.columns[0].name == (header or "column 1")
    assert schema.spec.columns[0].role == role


def test_row_numbers_are_a_feature_if_there_is_no_other():
    """A straight line through points at 1, 2, 3 ..., as tutorials fit it."""
    schema = infer(texts(30, x=[str(n) for n in range(30)], y=Y))
    assert [column.name for column in schema.spec.features] == ["x"]
    assert "there is no other" in notes_on(schema, "x")[0]


def test_who_states_a_column_gets_it():
    numbers = [str(n) for n in range(ROWS)]
    assert with_column(numbers, kinds={"c": "number"})[0].role == "feature"
    assert with_column(numbers, features=("c",))[0].role == "feature"
    assert with_column(["7"], features=("c", "x"))[0].role == "feature"
    names, _ = with_column([f"name {n}" for n in range(ROWS)], kinds={"c": "category"})
    assert len(names.categories) == ROWS


def test_stated_roles():
    table = texts(a=X, b=X[::-1], c=ANIMALS, d=["2024-01-01", "2024-01-02"], y=Y)
    spec = infer(table, ignore=("b",), group="c", time="d").spec
    assert [column.role for column in spec.columns] == ["feature", "ignore", "group", "time", "target"]
    assert spec.columns[2].categories == ()  # names of people have no place in a model
    assert spec.columns[3].low is not None
    only = infer(table, features=("c", "b")).spec
    assert [column.name for column in only.features] == ["b", "c"]


FINE = {"x": X, "c": ANIMALS, "y": Y}


@pytest.mark.parametrize(
    ("columns", "stated", "message"),
    [
        (FINE, {"target": ""}, "t.csv: no target; name the column to predict with --target COLUMN ('x', 'c', 'y')"),
        (FINE, {"target": "Y"}, "--target: there is no column 'Y'; did you mean 'y'"),
        (FINE, {"ignore": ("xx",)}, "--table.ignore: there is no column 'xx'; did you mean 'x'"),
        (FINE, {"units": {"weight": "kg"}}, "no column 'weight'; the columns are 'x', 'c', 'y'"),
        (FINE, {"ignore": ("x", "c")}, "no features are left"),
        (FINE, {"target": "c"}, "column 'c', the target: 200 of its 200 values are not numbers"),
        (FINE, {"time": "c"}, "column 'c': has neither numbers nor dates"),
        (
            FINE,
            {"kinds": {"c": "number"}},
            "column 'c': none of its values is a number, the first is \"cat\" in line 2",
        ),
        (FINE, {"kinds": {"y": "category"}}, "is a category by --table.kinds, but a regression predicts numbers"),
        (FINE | {"e": [""]}, {"features": ("e",)}, "column 'e' has no values; take it out of --table.features"),
        (FINE | {"y": ["4"]}, {}, "column 'y', the target: has the same value in every row"),
        (FINE | {"y": [""]}, {}, "column 'y', the target: has no values"),
        ({"x": ["1"], "y": Y}, {}, "no features are left: column 'x': ignored: has the same value in every row"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(columns, stated, message):
    with pytest.raises(DataError) as caught:
        infer(texts(**columns), **stated)
    assert message in str(caught.value)
    assert str(caught.value).startswith("t.csv: ")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_there_twice_is_refused():
    table = replace(texts(a=X, b=X, y=Y), names=("a", "a", "y"))
    with pytest.raises(DataError, match="t.csv: column 'a' is there more than once"):
        infer(table)


def test_an_empty_table_is_refused():
    with pytest.raises(DataError, match="no rows"):
        infer(RawTable(("x", "y"), ((), ()), (), Notation()))


def test_a_continuous_target_is_no_label():
    with pytest.raises(DataError, match="200 distinct numbers in 200 rows; use --task tabular-regression"):
        infer(texts(x=X, y=Y), "classification")
    many = [f"label {n}" for n in range(ROWS)]
    with pytest.raises(DataError, match="200 labels, but --table.max-categories is 100"):
        infer(texts(x=X, y=many), "classification")
    spec = infer(texts(x=X, y=Y), "classification", kinds={"y": "category"}).spec
    assert len(spec.columns[1].categories) == len(set(Y))
    assert "has 3 distinct values" in notes_on(infer(texts(x=X, y=["0", "1", "2"])), "y")[0]


PRICE = list(map(float, Y))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (Y, "copy of the target"),
        ([repr(1.95583 * value + 3) for value in PRICE], "correlation of 1.000000"),
        ([repr(math.exp(-value)) for value in PRICE], "same order as the target"),
    ],
)
def test_a_number_that_gives_the_target_away_is_warned_about(values, why):
    column, notes = with_column(values)
    assert column.role == "feature"
    assert why in notes[0]
    assert "--table.ignore c" in notes[0]


def test_a_category_that_gives_the_target_away_is_warned_about():
    grade = [str(number % 7) for number in range(ROWS)]
    named_grade = [f"grade {'GFEDCBA'[int(number)]}" for number in grade]
    assert "belongs to one value of the target" in notes_on(infer(texts(x=X, c=named_grade, y=grade)), "c")[0]
    label = [ANIMALS[n % 3] for n in range(ROWS)]
    coded = [f"{cell[0]}{n % 2}" for n, cell in enumerate(label)]
    assert "belongs to one label" in notes_on(infer(texts(x=X, c=coded, y=label), "classification"), "c")[0]
    gone = ["gone" if n % 4 else "stays" for n in range(ROWS)]
    since = [f"2024-01-{n % 28 + 1:02d}" if n % 4 else "" for n in range(ROWS)]
    leak = notes_on(infer(texts(x=X, c=since, y=gone), "classification"), "c")
    assert "for one of the two labels only" in leak[0]


@pytest.mark.parametrize(
    ("load", "task"),
    [
        (datasets.load_diabetes, "regression"),
        (datasets.load_wine, "classification"),
        (datasets.load_iris, "classification"),
        (datasets.load_breast_cancer, "classification"),
    ],
)
def test_real_tables_lose_nothing_and_cause_no_warning(load, task):
    data = load()
    lines = [",".join([*data.feature_names, "y"])]
    lines += [",".join([*map(repr, row.tolist()), str(y)]) for row, y in zip(data.data, data.target, strict=True)]
    table = read_text("\n".join(lines).encode())
    schema = infer(table, task)
    assert [column.name for column in schema.spec.features] == list(data.feature_names)
    assert all(column.kind == "number" and not column.may_be_missing for column in schema.spec.features)
    assert schema.notes == ()
    decoded = decode(schema.spec, table)
    assert np.array_equal(decoded.arrays[NUMBERS], data.data)
    assert [column.low for column in schema.spec.features] == data.data.min(axis=0).tolist()


def test_every_category_of_the_table_has_a_code():
    table = texts(x=X, c=["b", "a", "", "c"], y=Y)
    codes = decode(infer(table).spec, table).arrays[CODES][:4, 0]
    assert codes.tolist() == [3, 2, 0, 4]


def test_the_schema_of_equal_tables_is_equal():
    table = texts(x=X, c=ANIMALS, y=Y)
    backwards = replace(table, columns=tuple(cells[::-1] for cells in table.columns))
    assert infer(table).spec == infer(backwards).spec


def test_a_schema_is_shown():
    schema = infer(texts(x=X, c=[*ANIMALS, ""], id=[str(n) for n in range(ROWS)], y=Y), units={"x": "kg"})
    lines = describe(schema)
    assert lines[0] == "200 rows, 4 columns"
    assert lines[1].split() == ["column", "role", "kind", "values", "missing"]
    assert " kg " in lines[2]
    assert "3: cat, dog, emu" in lines[3]
    assert "50 (25.0%)" in lines[3]
    assert lines[-1].startswith("warning: column 'id': ignored: ")


def test_a_wide_table_is_shown_in_few_lines():
    numbers = {f"v{n}": RNG.normal(size=20).astype(str).tolist() for n in range(300)}
    lines = describe(infer(texts(20, **numbers, k=["7"], y=Y)))
    assert len(lines) < 10
    assert "300 more: feature, number: v0, v1, ..., v299" in lines
    assert any(line.startswith("y ") for line in lines)


def test_names_do_not_control_the_terminal():
    lines = describe(infer(texts(x=X, y=Y, **{"\x1b[2J\nred": [f"name {n}" for n in range(ROWS)]})))
    assert all(line.isprintable() for line in lines)
    with pytest.raises(DataError) as caught:
        infer(texts(**{"\x1b[2J\nred": X}), target="z")
    assert str(caught.value).isprintable()


def test_a_schema_is_kept_in_a_file(tmp_path):
    spec = infer(texts(x=X, c=ANIMALS, y=Y)).spec
    write_schema(tmp_path / "schema.json", spec)
    assert read_schema(tmp_path / "schema.json") == spec
    for content in ("{", "[]", '{"kind": "table"}', '{"columns": [{"name": "x", "kind": "colour"}]}'):
        (tmp_path / "schema.json").write_text(content)
        with pytest.raises(TrainingError, match="schema.json: "):
            read_schema(tmp_path / "schema.json")
    with pytest.raises(TrainingError, match="nowhere.json"):
        read_schema(tmp_path / "nowhere.json")


def test_settings_are_flags():
    line = "--target y --features a b --kinds zip category age number --units age years --decimal comma"
    config = tyro.cli(TableConfig, args=line.split())
    assert config.kinds == {"zip": "category", "age": "number"}
    assert config.features == ("a", "b")
    assert config.text.decimal == "comma"
    assert from_dict(TableConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {"a": "colour"}}, "kinds: column 'a': expected one of number, boolean, category, date"),
        ({"target": "a", "features": ("a",)}, "column 'a' is named by target, too"),
        ({"group": "a", "time": "a"}, "column 'a' is named by group, too"),
        ({"target": "a", "may_be_missing": ("a",)}, "may_be_missing: column 'a' is the target"),
        ({"ignore": (" ",)}, "ignore: expected the name of a column"),
        ({"max_categories": 1}, "max_categories: expected at least 2"),
        ({"decimal": "comma", "thousands": "comma"}, "thousands: "),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TableConfig(**settings)


def test_limits_of_requests_are_in_the_schema():
    spec = infer(texts(x=X, y=Y), max_rows=5, max_bytes=1000).spec
    assert isinstance(spec, TableSpec)
    assert (spec.max_rows, spec.max_bytes) == (5, 1000)
