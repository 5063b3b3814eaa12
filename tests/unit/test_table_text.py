"""The text of tables: encodings, separators, quotes, and how numbers are spelled; and Parquet."""

import csv
import gzip
import io
import random
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from functools import partial

import numpy as np
import pytest

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.table.cells import BadRow, Notation
from marquee.handlers.inputs.table.errors import TableError
from marquee.handlers.inputs.table.notation import parse_number, parse_numbers
from marquee.handlers.inputs.table.options import TextOptions
from marquee.handlers.inputs.table.parquet import read_parquet
from marquee.handlers.inputs.table.records import read_records
from marquee.handlers.inputs.table.text import read_text

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

GENERAL = TextOptions(encoding="utf-8")  # takes the way that any text can go
POINT, COMMA = Notation(".", ""), Notation(",", "")


def cells(text, **settings):
    """The rows of a text as lists."""
    table = read_text(text.encode(), **settings)
    return [list(row) for row in zip(*table.columns, strict=True)]


def refusal(text, **settings):
    with pytest.raises(InputError) as caught:
        read_text(text if isinstance(text, bytes) else text.encode(), **settings)
    return f"{caught.value.code}: {caught.value}"


def test_a_table_has_names_columns_and_the_lines_of_its_rows():
    table = read_text(b"carat , cut\n0.23,Ideal\n\n0.21,Premium\n")
    assert table.names == ("carat", "cut")
    assert [list(column) for column in table.columns] == [["0.23", "0.21"], ["Ideal", "Premium"]]
    assert (list(table.lines), table.notation, table.rejected, len(table)) == ([2, 4], POINT, (), 2)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_line_ends_are_detected(separator, end):
    text = end.join(["a,b,c", "1,x,2.5", "", "2,y,3.5"]).replace(",", separator)
    table = read_text(text.encode())
    assert table.names == ("a", "b", "c")
    assert [list(column) for column in table.columns] == [["1", "2"], ["x", "y"], ["2.5", "3.5"]]
    assert list(table.lines) == [2, 4]


def test_a_stated_separator_holds_and_excels_own_line_states_one():
    assert cells("a;b,c\n1;2,3\n", options=TextOptions(separator="semicolon")) == [["1", "2,3"]]
    table = read_text(b"sep=;\r\na;b,c\r\n1;2,3\r\n")
    assert (table.names, list(table.lines)) == (("a", "b,c"), [3])
    assert "line 1 states the separator '!'" in refusal("sep=!\na!b\n1!2\n")


def test_a_title_above_the_table_makes_every_row_a_bad_one():
    table = read_text(b"Sales, 2020\na;b;c\n1;2;3\n4;5;6\n")
    assert (table.names, len(table)) == (("Sales, 2020",), 0)
    assert {row.reason for row in table.rejected} == {"3 cells, but the header has 1"}


def test_two_separators_that_fit_are_refused_unless_commas_are_decimal_signs():
    assert "comma and semicolon separate the text equally well" in refusal("a,b;c\nx,y;z\n")
    table = read_text(b"1,5;2,5\n3,5;4,5", header=False)
    assert ([list(column) for column in table.columns], table.notation) == ([["1,5", "3,5"], ["2,5", "4,5"]], COMMA)


def test_quotes_may_hold_separators_quotes_and_line_breaks():
    table = read_text(b'name,note\n"Smith, J","said ""no"""\n"two\nlines",x\n5" pipe,y\n')
    assert list(table.columns[0]) == ["Smith, J", "two\nlines", '5" pipe']
    assert list(table.columns[1]) == ['said "no"', "x", "y"]
    assert list(table.lines) == [2, 3, 5]


def test_rows_with_too_many_or_too_few_cells_are_rejected_by_line():
    table = read_text(b"a,b\n1,2\n3\n4,5,6\n7,8\n")
    assert [list(column) for column in table.columns] == [["1", "7"], ["2", "8"]]
    assert table.rejected == (
        BadRow(3, "1 cell, but the header has 2"),
        BadRow(4, "3 cells, but the header has 2"),
    )
    assert read_text(b"1\n2,3\n4,5\n", header=False).rejected == (BadRow(1, "1 cell, but most rows have 2"),)


def test_wrong_quotes_reject_their_row_and_nothing_else():
    table = read_text(b'a,b\n"open,1\n2,3\n"x"y,4\n5,6\n')
    assert [list(column) for column in table.columns] == [["2", "5"], ["3", "6"]]
    assert [row.line for row in table.rejected] == [2, 4]
    assert "closing quote" in table.rejected[1].reason
    assert read_text(b'a,b\n1,2\n"open,1\n').rejected == (BadRow(3, "the quote of a cell is not closed"),)
    merged = read_text(b'a,b,c\n1,"x\n2,3,4\n5,y",6,7\n8,9,10\n')
    assert merged.rejected == (
        BadRow(2, "4 cells, but the header has 3; it goes on to line 4: is a quote not closed?"),
    )


def test_many_wrong_quotes_take_no_longer_than_the_text():
    assert len(read_text(b"a,b\n" + b'"x"y,1\n' * 20_000).rejected) == 20_000
    assert len(read_text(b'a,b\n"x,1\n' + b"1,2\n" * 20_000)) == 20_000


def calls(work):
    """How many calls of functions, generators among them, some work takes."""
    count = 0

    def tick(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(tick)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("options", [GENERAL, TextOptions(separator="comma")])
@pytest.mark.parametrize(
    ("line", "end"), [('x","\n', ""), ('x","\n', '"z'), ('x","\n', '"z"z'), ('"","\n', ""), ('"\n', "")]
)
def test_lines_that_each_open_a_quote_are_read_a_few_times_at_most(line, end, options):
    few, many = (calls(partial(read_text, f"a,b\n{line * lines}{end}".encode(), options)) for lines in (100, 400))
    assert many < 5 * few


def one_by_one(text, separator):
    """What read_records is to give: each record read from its own line on, however often a line is read."""
    lines, start, cells, wrong = list(io.StringIO(text, newline="")), 0, [], []
    while start < len(lines):
        reader = csv.reader(lines[start:], delimiter=separator, strict=True, skipinitialspace=True)
        try:
            record = next(reader)
        except csv.Error:
            wrong.append(start + 1)
            start += 1
            continue
        if "".join(lines[start : start + reader.line_num]).strip():
            cells.append((start + 1, start + reader.line_num, record))
        start += reader.line_num
    return cells, wrong


def test_wrong_quotes_never_decide_how_later_records_are_read():
    random.seed(2)
    for _ in range(2000):
        text = "".join(random.choices(['"', '"', ",", "x", " ", "\n", "\n", "\r\n"], k=random.randrange(1, 40)))
        records = read_records(text, ",")
        found = list(zip(records.lines, records.last_lines, records.cells, strict=True))
        assert (found, [row.line for row in records.rejected]) == one_by_one(text, ","), repr(text)


def test_a_record_of_many_lines_may_not_be_endless():
    text = 'a,b\n"x,1\n' + "1,2\n" * 40_000 + '3,"\n4,5\n'
    table = read_text(text.encode())
    assert [row.line for row in table.rejected] == [2, 40_003]
    assert len(table) == 40_001


def test_records_are_counted_with_those_that_are_rejected():
    records = read_records('"x"y,1\n' * 50 + "1,2\n" * 50, ",", most=20)
    assert (len(records.cells), len(records.rejected)) == (0, 20)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_record_may_have_no_more_cells_than_its_reader_can_use(quote):
    text = f"a,b\n{quote}1{quote},2\n" + ",".join([f"{quote}1{quote}"] * 5) + "\n3,4\n"
    table = read_text(text.encode(), widest=4)
    assert list(table.columns[0]) == ["1", "3"]
    assert table.rejected == (BadRow(3, "more than 4 cells"),)


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_cell_may_not_be_endless(quote):
    table = read_text(f"a,b\n{quote}{'x' * 200_000}{quote},1\n2,3\n".encode())
    assert list(table.columns[0]) == ["2"]
    assert [row.line for row in table.rejected] == [2]
    assert "131072 characters" in table.rejected[0].reason


def test_whether_the_first_record_is_a_header():
    assert "add a first line with the names" in refusal("1,2\n3,4\n")
    assert read_text(b"1,2\n3,4\n", header=False).names is None
    assert read_text(b"1,2\n3,4\n", header=True).names == ("1", "2")
    seen = []
    assert read_text(b" a , b\n3,4\n", header=lambda first: bool(seen.append(first))).names is None
    assert seen == [("a", "b")]
    assert cells("a,b\n3,4\n", header=lambda first: "a" in first) == [["3", "4"]]
    assert refusal('"a,b\n1,2\n').startswith("bad_table: line 1, before the names of the columns: the quote")


def test_a_table_may_have_no_rows_but_not_nothing():
    table = read_text(b"a,b\n")
    assert (table.names, table.columns, len(table)) == (("a", "b"), ((), ()), 0)
    for nothing in (b"", b"\n \r\n", b"\xef\xbb\xbf"):
        assert refusal(nothing) == "empty: the table is empty"
    assert refusal('"a').startswith("bad_table: line 1: the quote")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_encodings_are_detected(encoding):
    text = "Straße;Größe\nMüllerstraße;12,5\nRue de l'Été;3,5\n"
    table = read_text(text.encode(encoding))
    assert (table.names, table.notation) == (("Straße", "Größe"), COMMA)
    assert list(table.columns[0]) == ["Müllerstraße", "Rue de l'Été"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("город,1\nМосква,2\n", "cp1251"), ("a,b\nPaweł,2\n", "cp1250"), ("a,b\n東京,2\n", "shift-jis")],
)
def test_an_encoding_that_the_bytes_do_not_tell_is_refused(text, encoding):
    message = refusal(text.encode(encoding))
    assert "encoding cannot be told" in message
    assert "--table.encoding" in message


def test_a_stated_encoding_holds():
    data = "a,b\nПривет,1\n".encode("utf-16-le")
    assert "line 1 has a NUL: the table is damaged, or UTF-16 without a byte order mark" in refusal(data)
    assert list(read_text(data, TextOptions(encoding="utf-16")).columns[0]) == ["Привет"]
    assert "byte 7 (line 2)" in refusal("a,b\n1,é\n".encode("latin-1"), options=GENERAL)
    assert "byte order mark of utf-16-le" in refusal("a,b\n1,é\n".encode("utf-16"), options=GENERAL)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip"),
        (b"PK\x03\x04\x14\x00[Content_Types].xml", ".xlsx"),
        (b"PK\x03\x04\x14\x00table.csv", "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", ".xls"),
        (b"PAR1rest", "Parquet"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"a,b\n1,\x00\n", "line 2 has a NUL"),
        ("a,b\n1,2\n".encode("utf-32"), "UTF-32"),
    ],
)
def test_what_is_no_text_is_refused_by_name(data, what):
    assert what in refusal(data)


@pytest.mark.parametrize(
    ("text", "notation"),
    [
        ("a;b\n12,5;3\n", COMMA),
        ("a;b\n0,123;3\n", COMMA),
        ("a;b\n12.5;3\n", POINT),
        ("a;b\n1.234,56;3\n", Notation(",", ".")),
        ("a;b\n1.234;2,5\n", Notation(",", ".")),
        ("a;b\n1,234.50;3\n", Notation(".", ",")),
        ("a;b\n1,234;2.5\n", Notation(".", ",")),
        ("a;b\n1,234,567;3\n", Notation(".", ",")),
        ("a\tb\n1'234.5\t3\n", Notation(".", "'")),
        ("a;b\n1\u00a0234,5;3\n", Notation(",", " ")),
        ("a,b\n1 234,3\n", Notation(".", " ")),
        ('a,b\n"1,234",3\n', Notation(".", ",")),
        ('a,b\n"12,5",3.5\n', POINT),
        ("a,b\n1.234,5\n", POINT),
        ("a;b\n3;4\n", POINT),
        ("when;a\n12.05.2020;1,5\n13.05.2020;2,5\n", COMMA),
        ("name;a\nWing 1.5 ft;1,5\nHouse 3.25;2,5\n", COMMA),
        ("a;b\nNA;1\n12,5;2\nunknown;3\n", COMMA),
    ],
)
def test_the_notation_is_that_of_all_columns_together(text, notation):
    assert read_text(text.encode()).notation == notation


def test_numbers_that_can_be_read_in_two_ways_are_refused():
    message = refusal("name;price\nx;5\ny;1,234\n")
    assert message.startswith("bad_table: '1,234' in column 'price' (line 3) may be 1.234 or 1234")
    assert "--table.decimal" in message
    assert "--table.thousands" in message
    message = refusal("a;b\n12,5;1\n3;2.5\n", header=False)
    assert "'2.5' in column 2 (line 3), '12,5' in column 1 (line 2)" in message
    assert "'12,5' in column 'a' (line 2) has a decimal comma in a table that commas" in refusal('a,b\n"12,5",3\n')
    assert "thousands are separated in two ways" in refusal("a;b\n1.234,5;1 234\n")


@pytest.mark.parametrize(
    ("stated", "notation"),
    [
        ({"decimal": "comma"}, COMMA),
        ({"decimal": "point"}, Notation(".", ",")),
        ({"thousands": "none"}, COMMA),
        ({"thousands": "comma"}, Notation(".", ",")),
        ({"thousands": "space"}, Notation(",", " ")),
        ({"decimal": "point", "thousands": "apostrophe"}, Notation(".", "'")),
    ],
)
def test_what_is_stated_of_the_numbers_decides(stated, notation):
    assert read_text(b"a;b\n1,234;5\n", TextOptions(**stated)).notation == notation


def test_a_stated_decimal_comma_holds_in_a_table_that_commas_separate():
    options = TextOptions(decimal="comma")
    assert read_text(b'a,b\n"12,5",3\n', options).notation == COMMA
    assert read_text(b"a,b\n1.234,3\n", options).notation == Notation(",", ".")


def test_options_are_checked():
    with pytest.raises(ValueError, match="separator: expected one of auto, comma, semicolon, tab, pipe, got ';'"):
        TextOptions(separator=";")
    with pytest.raises(ValueError, match="thousands: expected another sign"):
        TextOptions(decimal="comma", thousands="comma")


def test_the_short_way_reads_what_the_general_one_does():
    random.seed(0)
    for _ in range(300):
        text = "".join(
            random.choices(["1", "2.5", "x y", ",", ",", " ", "\n", "\r\n", "1 234"], k=random.randrange(1, 30))
        )
        outcomes = []
        for options in (TextOptions(), GENERAL):
            try:
                outcomes.append(read_text(text.encode(), options, header=False))
            except InputError as error:
                outcomes.append((error.code, error.message))
        assert outcomes[0] == outcomes[1], repr(text)


def test_damaged_text_gives_a_table_or_an_error_of_its_own():
    random.seed(0)
    original = 'a;b;c\n1,5;"x;y";2\n3,25;"q ""z""";é\n1.234,5;"two\nlines";NA\n'.encode()
    for _ in range(500):
        data = bytearray(original)
        for _ in range(random.randrange(1, 5)):
            data[random.randrange(len(data))] = random.choice(b'",;\r\n\x00\xff\xe9 1.')
        try:
            table = read_text(bytes(data), header=random.choice([None, False, True]))
        except InputError:
            continue
        assert {len(column) for column in table.columns} <= {len(table)}


@pytest.mark.parametrize(
    ("text", "notation", "value"),
    [
        ("12.5", POINT, 12.5),
        (" -3e2\t", POINT, -300.0),
        ("+4", POINT, 4.0),
        (".5", POINT, 0.5),
        ("1.", POINT, 1.0),
        ("1e-400", POINT, 0.0),
        ("12,5", COMMA, 12.5),
        ("1.234,5", Notation(",", "."), 1234.5),
        ("1234,5", Notation(",", "."), 1234.5),
        ("1,234,567", Notation(".", ","), 1234567.0),
        ("1\u00a0234\u202f567.5", Notation(".", " "), 1234567.5),
        ("1\u2019234", Notation(".", "'"), 1234.0),
    ],
)
def test_a_number_under_its_notation(text, notation, value):
    assert parse_number(text, notation) == value
    assert parse_numbers([text, "7"], notation).tolist() == [value, 7.0]


@pytest.mark.parametrize(
    ("text", "notation", "reason"),
    [
        *(
            (text, POINT, "is not a number$")
            for text in ["nan", "inf", "-Infinity", "0x10", "1_000", "٣", "1 2", "e5", "--1"]
        ),
        ("", POINT, "is blank"),
        ("1e999", POINT, "too large"),
        ("1" * 500, POINT, "500 characters"),
        ("12,5", POINT, "with '.' as the decimal sign"),
        ("12.5", COMMA, "with ',' as the decimal sign"),
        ("12.5", Notation(",", "."), "and '.' between thousands"),
        ("0,123", Notation(".", ","), "between thousands"),
        ("1,23", Notation(".", ","), "between thousands"),
    ],
)
def test_what_is_no_number_says_why(text, notation, reason):
    with pytest.raises(ValueError, match=reason):
        parse_number(text, notation)
    assert parse_numbers(["1", text], notation) is None


def test_many_numbers_are_read_as_one_is():
    random.seed(1)
    for notation in (POINT, COMMA, Notation(",", "."), Notation(".", " ")):
        for _ in range(500):
            texts = ["".join(random.choices("0123.,e-+ \n", k=random.randrange(1, 8))) for _ in range(2)]
            try:
                expected = np.array([parse_number(text, notation) for text in texts])
            except ValueError:
                assert parse_numbers(texts, notation) is None
                continue
            values = parse_numbers(texts, notation)
            assert values is None or values.tobytes() == expected.tobytes()
    assert parse_numbers([], POINT).shape == (0,)


def parquet(columns, **settings):
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **settings)
    return target.getvalue()


def test_parquet_cells_have_types(tmp_path):
    data = parquet(
        {
            " price ": pa.array([Decimal("1.10"), None]),
            "count": pa.array([None, 3], pa.uint8()),
            "width": pa.array([0.5, float("nan")], pa.float32()),
            "cut": pa.array(["Ideal", None]).dictionary_encode(),
            "note": ["x", "y"],
            "sold": [True, None],
            "day": [date(2020, 1, 2), None],
            "utc": pa.array([datetime(2020, 1, 2, 3), None], pa.timestamp("ns")),
            "local": pa.array([0, 1500], pa.timestamp("ms", "Europe/Berlin")),
            "nothing": pa.nulls(2),
            "__index_level_0__": [7, 8],
        }
    )
    (tmp_path / "table.parquet").write_bytes(data)
    table = read_parquet(data)
    assert table == read_parquet(tmp_path / "table.parquet")
    assert (list(table.lines), table.notation, table.rejected) == ([1, 2], None, ())
    assert dict(zip(table.names, table.columns, strict=True)) == {
        "price": [1.1, None],
        "count": [None, 3],
        "width": [0.5, None],
        "cut": ["Ideal", None],
        "note": ["x", "y"],
        "sold": [True, None],
        "day": [date(2020, 1, 2), None],
        "utc": [datetime(2020, 1, 2, 3, tzinfo=timezone.utc), None],
        "local": [
            datetime(1970, 1, 1, tzinfo=timezone.utc),
            datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=timezone.utc),
        ],
        "nothing": [None, None],
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2]], "type list<.*column of its own"),
        ([{"a": 1}], "type struct<.*column of its own"),
        ([b"x"], "type binary; write it as a number"),
        (pa.array([2**62], pa.timestamp("us")), "value out of range"),
    ],
)
def test_parquet_columns_of_other_types_are_refused_by_name(values, message):
    with pytest.raises(TableError, match=f"column 'odd' of the Parquet file has .*{message}"):
        read_parquet(parquet({"fine": [1], "odd": values}))


def test_a_large_parquet_file_is_refused_before_it_is_read():
    data = parquet({"a": ["x" * 1000] * 100_000})
    assert len(data) < 20_000
    with pytest.raises(InputError, match="100000 rows; at most 1000 are accepted") as caught:
        read_parquet(data, max_rows=1000)
    assert caught.value.code == "too_many_instances"
    with pytest.raises(InputError, match="at most 1000000 are accepted") as caught:
        read_parquet(data, max_bytes=1_000_000)
    assert caught.value.code == "too_large"
    [column] = read_parquet(data).columns
    assert len(column) == 100_000
    assert len(set(map(id, column))) < 20


def test_every_kind_of_text_is_in_memory_once_however_many_rows_have_it():
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        data = parquet({"a": pa.array(["x" * 1000] * 5_000).cast(kind)})
        for source in (data, data.replace(b"ARROW:schema", b"OTHER:schema")):
            [column] = read_parquet(source, max_bytes=200_000).columns
            assert (len(column), set(column)) == (5_000, {"x" * 1000})
            assert len(set(map(id, column))) == 1


def understated(data, size):
    """A file that says it has one byte where it has ``size``, in the same space."""

    def number(value, width=0):
        value, parts = 2 * value, []
        while value or len(parts) < width:
            parts.append(value & 127)
            value >>= 7
        return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])

    said = number(size)
    assert said in data
    return data.replace(said, number(1, len(said)))


@pytest.mark.parametrize("compression", ["zstd", "gzip", "snappy"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("repeat", [{"use_dictionary": True}, {"use_dictionary": False}])
def test_what_a_parquet_file_says_of_its_size_is_not_believed(compression, version, repeat):
    data = parquet({"a": ["x" * 500_000, "y"]}, compression=compression, data_page_version=version, **repeat)
    metadata = pq.read_metadata(io.BytesIO(data))
    for size in {metadata.row_group(0).total_byte_size, metadata.row_group(0).column(0).total_uncompressed_size}:
        data = understated(data, size)
    assert pq.read_metadata(io.BytesIO(data)).row_group(0).total_byte_size == 1
    with pytest.raises(InputError, match=r"about 50\d{4} bytes in memory; at most 100000 are accepted") as caught:
        read_parquet(data, max_bytes=100_000)
    assert caught.value.code == "too_large"
    assert read_parquet(data, max_bytes=600_000).columns == (["x" * 500_000, "y"],)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_that_are_stored_as_differences_are_refused_by_name(encoding, tmp_path):
    data = parquet({"n": [1.5] * 3, "a": ["x" * 10] * 3}, use_dictionary=False, column_encoding={"a": encoding})
    (tmp_path / "table.parquet").write_bytes(data)
    for source in (data, tmp_path / "table.parquet"):
        with pytest.raises(TableError, match="encoding.* DELTA_BYTE_ARRAY.*; write"):
            read_parquet(source)


def test_parquet_of_any_layout_is_read():
    columns = {"a": [None, *range(999)], "b": [f"text {n % 7}" for n in range(1000)], "c": [n / 3 for n in range(1000)]}
    expected = read_parquet(parquet(columns)).columns
    for settings in (
        {"compression": "none", "row_group_size": 10},
        {"compression": "brotli", "data_page_size": 100, "write_page_index": True},
        {"compression": "lz4", "data_page_version": "2.0", "use_byte_stream_split": ["c"], "use_dictionary": ["b"]},
        {"compression": "zstd", "write_statistics": False, "dictionary_pagesize_limit": 10},
        {"column_encoding": {"a": "DELTA_BINARY_PACKED"}, "use_dictionary": False, "max_rows_per_page": 7},
    ):
        assert read_parquet(parquet(columns, **settings), max_bytes=200_000).columns == expected


def test_columns_of_the_same_name_are_refused():
    target = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]), target)
    with pytest.raises(TableError, match="column 'a' of the Parquet file is there twice"):
        read_parquet(target.getvalue())


def test_the_columns_of_a_parquet_file_are_counted_and_checked_before_they_are_read():
    data = parquet({f"c{number}": [[1]] for number in range(30)})
    with pytest.raises(TableError, match="30 columns; at most 20"):
        read_parquet(data, widest=20)
    seen = []
    with pytest.raises(TableError, match="type list"):
        read_parquet(data, widest=30, check=seen.append)
    assert seen == [[f"c{number}" for number in range(30)]]


def test_damaged_parquet_gives_a_table_or_an_error_of_its_own():
    random.seed(0)
    original = parquet({"a": [1.5, 2.5], "b": ["x", "y"]})
    for data in (b"", b"PAR1", b"PARE" + original[4:], original[:-10], original[:60]):
        with pytest.raises(TableError) as caught:
            read_parquet(data)
        assert caught.value.code == "bad_table"
    for _ in range(200):
        data = bytearray(original)
        data[random.randrange(len(data))] = random.randrange(256)
        try:
            table = read_parquet(bytes(data))
        except InputError:
            continue
        assert {len(column) for column in table.columns} <= {len(table)}
