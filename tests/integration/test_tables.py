"""Models of tables behind a real TorchServe: every form of a body, over REST and gRPC."""

import csv
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.serving.client import Answer
from marquee.training.tasks.tabular.manifest import read_manifest
from tests.conftest import Once, Script, Served, find_free_port
from tests.integration.test_refusal import assert_nothing_runs, renew_digest, rewrite
from tests.table_forms import (
    ANY,
    CSV,
    FEATURES,
    FORMS,
    JSON,
    TOWNS,
    Row,
    as_csv,
    as_parquet,
    features,
    flowers,
    houses,
    jsonable,
    make_models,
)

FLOWER = {"length": 3.1, "width": 3.9, "colour": "w"}


@pytest.fixture(scope="session")
def folder(once: Once, script: Script) -> Path:
    """Data, runs and archives of :func:`tests.table_forms.make_models`."""
    return once("tables", lambda folder: make_models(folder, script))


@pytest.fixture(scope="module")
def tables(folder: Path, script: Script, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Both models behind one TorchServe."""
    state = tmp_path_factory.mktemp("tables")
    arguments = ("--store", folder / "store", "--state", state, "--port", find_free_port())
    started = script("serve", "start", "houses", "flowers", *arguments, "--json")
    try:
        yield Served(state, json.loads(started.stdout))
    finally:
        script("serve", "stop", "--state", state)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Houses that no model was trained on."""
    return features(houses(40, seed=7))


@pytest.fixture(scope="module")
def answers(tables, rows) -> list[dict]:
    """The answers to ``rows``."""
    return ask(tables, FORMS["lists"][1](rows)).body["predictions"]


def ask(tables: Served, body: bytes, content_type: str = JSON, name: str = "houses", grpc: bool = False) -> Answer:
    """The answer over one protocol, with the whole body also where it is an error."""
    if grpc:
        return tables.client.predict_grpc(name, body)
    headers = {**tables.headers(), "Content-Type": content_type}
    response = requests.post(f"{tables.url}/predictions/{name}", data=body, headers=headers, timeout=60)
    assert response.headers["Content-Type"] == "application/json"
    return Answer(response.status_code, response.json())


def ask_both(tables: Served, body: bytes, content_type: str = JSON, name: str = "houses") -> Answer:
    """The answer over REST, which is the same over gRPC but for the status, which gRPC has none of."""
    answer = ask(tables, body, content_type, name)
    assert ask(tables, body, name=name, grpc=True).body == answer.body
    return answer


def dump(document: object) -> bytes:
    """JSON, in which NaN and infinite numbers are Python's literals."""
    return json.dumps(document).encode()


def changed(row: Row, **cells: object) -> list[object]:
    """The cells of a row, with some of them replaced; a name has ``_`` in the place of a space."""
    return list({**jsonable(row), **{name.replace("_", " "): cell for name, cell in cells.items()}}.values())


def test_golden_samples_were_replayed_over_both_protocols(tables):
    assert tables.started["checked"] >= 2 * 2 * 16
    assert tables.started["differences"] == []


class TestForms:
    @pytest.mark.parametrize("grpc", [False, True], ids=["REST", "gRPC"])
    @pytest.mark.parametrize("form", FORMS)
    def test_the_same_rows_have_the_same_bits_in_every_form(self, tables, rows, answers, form, grpc):
        content_type, write = FORMS[form]
        answer = ask(tables, write(rows), content_type, grpc=grpc)
        assert answer.status == 200
        assert answer.body["predictions"] == answers

    @pytest.mark.parametrize("form", FORMS)
    def test_labels_too(self, tables, form):
        content_type, write = FORMS[form]
        some = features(flowers(12, seed=5))
        expected = ask(tables, FORMS["lists"][1](some), name="flowers").body["predictions"]
        assert len({entry["label"] for entry in expected}) == 3
        assert ask_both(tables, write(some), content_type, "flowers").body["predictions"] == expected

    def test_answers_are_evaluations(self, tables, folder):
        run = folder / "runs" / "houses"
        with open(run / "predictions.csv", newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        sent = {record.path: record.row for record in read_manifest(run / "manifest.csv").records}
        body = b"[" + b",".join(sent[line["path"]] for line in lines) + b"]"
        got = ask_both(tables, body).body["predictions"]
        assert len(got) == 36
        for line, answer in zip(lines, got, strict=True):
            numbers = (answer["value"], answer["interval"]["low"], answer["interval"]["high"])
            assert numbers == pytest.approx([float(line[name]) for name in ("value", "low", "high")], abs=1e-9)
            assert "|".join(answer["unfamiliar"]) == line["unfamiliar"]

    def test_an_object_is_one_row_and_its_answer_no_list(self, tables, rows, answers):
        body = ask_both(tables, dump(jsonable(rows[0]))).body
        assert body["value"] == pytest.approx(answers[0]["value"], abs=1e-9)
        assert body["model"]["name"] == "houses"
        assert ask_both(tables, dump(FLOWER), name="flowers").body["label"] == "b"

    def test_other_columns_are_not_looked_at_and_their_order_does_not_matter(self, tables, rows, answers):
        for target in (1.0, None):
            sent = [dict(reversed({**row, "price": target}.items())) for row in rows]
            for body in (as_csv(sent), as_parquet(sent), dump([jsonable(row) for row in sent])):
                assert ask_both(tables, body, ANY).body["predictions"] == answers

    def test_a_file_in_a_form_and_by_put(self, tables, rows, answers):
        url, headers = f"{tables.url}/predictions/houses", tables.headers()
        form = requests.post(url, files={"data": ("rows.csv", as_csv(rows))}, headers=headers, timeout=60)
        put = requests.put(url, data=as_csv(rows), headers=headers, timeout=60)  # curl -T
        assert form.json()["predictions"] == put.json()["predictions"] == answers


BAD_CELLS = [
    ({"floor_area": float("nan")}, "bad_value", "row 1, column 'floor area': expected a finite number, got NaN"),
    ({"energy": float("-inf")}, "bad_value", "row 1, column 'energy': expected a finite number, got -Infinity"),
    ({"rooms": "three"}, "bad_value", "row 1, column 'rooms': expected a number, got \"three\""),
    ({"rooms": "3"}, "bad_value", "row 1, column 'rooms': expected a number, got \"3\""),
    ({"rooms": True}, "bad_value", "row 1, column 'rooms': expected a number, got true"),
    ({"rooms": [3]}, "bad_value", "row 1, column 'rooms': expected a number, got a list"),
    ({"rooms": 10**400}, "bad_value", "row 1, column 'rooms'"),
    ({"town": {}}, "bad_value", "row 1, column 'town'"),
    ({"built": "2023-02-29"}, "bad_value", "row 1, column 'built': no such date"),
    ({"built": 7}, "bad_value", "row 1, column 'built': expected a date"),
    ({"garden": "yes"}, "bad_value", "row 1, column 'garden': expected true or false"),
    ({"garden": 2}, "bad_value", "row 1, column 'garden': expected true or false"),
    ({"floor_area": None}, "missing_value", "row 1, column 'floor area': a value is missing"),
    ({"town": None}, "missing_value", "row 1, column 'town': a value is missing"),
]

BAD_BODIES = [
    (b"", JSON, 400, "empty", ""),
    (b"{nonsense", JSON, 400, "bad_request", "not valid JSON"),
    (b"[" * 100_000, JSON, 400, "bad_request", "nested too deeply"),
    (b"[]", JSON, 400, "bad_table", "expected at least one row"),
    (b'{"instances": {}}', JSON, 400, "bad_table", "instances: expected a list of rows"),
    (b'{"instances": [[1]], "inputs": [[1]]}', JSON, 400, "bad_table", "expected nothing beside 'instances'"),
    (b'{"inputs": {"rooms": [1, 2], "town": ["x"]}}', JSON, 400, "missing_column", "column 'floor area' is missing"),
    (b'{"dataframe_split": {"columns": ["rooms"]}}', JSON, 400, "bad_table", "dataframe_split: expected"),
    (b'{"dataframe_split": {"columns": ["rom"], "data": [[1]]}}', JSON, 400, "unknown_column", "did you mean 'rooms'"),
    (b"floor area,rom,town,built,garden,energy\n1,2,x,2001-01-01,no,\n", CSV, 400, "unknown_column", "'rooms'"),
    (b"floor area,rooms,rooms,town,built,garden\n1,2,2,x,2001-01-01,no\n", CSV, 400, "bad_table", "there twice"),
    (b"floor area,rooms,town,built,garden,energy\n", CSV, 400, "bad_table", "expected at least one row"),
    (b"1,2,x\n", CSV, 400, "bad_table", "expected 6 cells in a row (floor area, rooms, town, built, garden, energy)"),
    (b"\x89PNG\r\n\x1a\n" + bytes(40), ANY, 400, "bad_table", "damaged"),
    (b"PK\x03\x04" + b"xl/" * 40, ANY, 400, "bad_table", "workbook"),
    (b"PAR1" + bytes(40) + b"PAR1", ANY, 400, "bad_table", "Parquet file is damaged"),
    (b"[" + b" " * 6_000_000 + b"]", ANY, 413, "too_large", "at most 6000000"),
]


class TestErrors:
    @pytest.mark.parametrize(("cells", "code", "message"), BAD_CELLS)
    def test_a_bad_cell_is_named_by_row_and_column(self, tables, rows, cells, code, message):
        answer = ask_both(tables, dump([changed(rows[0], **cells)]))
        [entry] = answer.body["predictions"]
        assert (answer.status, entry["error"]["code"]) == (400, code)
        assert entry["error"]["message"].startswith(message)

    def test_a_number_beyond_float64(self, tables, rows):
        [entry] = ask_both(tables, dump([changed(rows[0], rooms=0)]).replace(b" 0,", b" 1e999,")).body["predictions"]
        assert entry["error"]["message"].startswith("row 1, column 'rooms': expected a finite number, got Infinity")
        body = as_csv([{**rows[0], "rooms": "1e999"}])
        [entry] = ask_both(tables, body, CSV).body["predictions"]
        assert entry["error"]["message"].startswith("line 2, column 'rooms': expected a number, got \"1e999\"")

    @pytest.mark.parametrize(("body", "content_type", "status", "code", "message"), BAD_BODIES)
    def test_a_body_that_cannot_be_used(self, tables, body, content_type, status, code, message):
        answer = ask_both(tables, body, content_type)
        assert (answer.status, answer.body["error"]["code"]) == (status, code)
        assert message in answer.body["error"]["message"]

    def test_names_of_columns(self, tables, rows):
        row = jsonable(rows[0])
        without = {name: cell for name, cell in row.items() if name != "rooms"}
        for sent, code, message in (
            (without, "missing_column", "column 'rooms' is missing"),
            ({**without, "room": 3}, "unknown_column", "unknown column \"room\"; did you mean 'rooms'?"),
        ):
            one, listed = ask_both(tables, dump(sent)), ask_both(tables, dump({"dataframe_records": [sent]}))
            assert one.status == listed.status == 400
            for error in (one.body["error"], listed.body["predictions"][0]["error"]):
                assert error["code"] == code
                assert message in error["message"]

    @pytest.mark.parametrize("form", ["lists", "inputs of columns", "JSON lines", "CSV", "CSV without a header"])
    def test_a_bad_row_fails_alone(self, tables, rows, answers, form):
        content_type, write = FORMS[form]
        sent = [dict(row) for row in rows]
        sent[3]["rooms"], sent[5]["built"] = "three", "yesterday"
        answer = ask_both(tables, write(sent), content_type)
        assert answer.status == 200
        for number, (got, expected) in enumerate(zip(answer.body["predictions"], answers, strict=True)):
            if number in (3, 5):
                assert got["error"]["code"] == "bad_value"
                assert repr({3: "rooms", 5: "built"}[number]) in got["error"]["message"]
            else:
                assert got["value"] == pytest.approx(expected["value"], abs=1e-9)
        messages = [answer.body["predictions"][number]["error"]["message"] for number in (3, 5)]
        # A town's name has a line break, in every fourth row.
        places = {"CSV": ("line 5,", "line 8,"), "CSV without a header": ("line 4,", "line 7,")}
        for message, place in zip(messages, places.get(form, ("row 4,", "row 6,")), strict=True):
            assert message.startswith(place)

    def test_rows_that_are_none_are_in_their_places(self, tables, rows):
        """Too many or too few cells, a wrong quote, a line that is no JSON."""
        text = as_csv(rows[:2]) + b"1,2\n" + as_csv(rows[4:5], header=False) + b'1,"x"y\n'
        got = ask_both(tables, text, CSV).body["predictions"]
        assert ["error" in entry for entry in got] == [False, False, True, False, True]
        assert got[2]["error"]["message"] == "line 4: 2 cells, but the header has 6"
        lines = FORMS["JSON lines"][1](rows[:2]) + b'{"rooms": \n' + dump(changed(rows[2]))
        got = ask_both(tables, lines, ANY).body["predictions"]
        assert ["error" in entry for entry in got] == [False, False, True, False]
        assert got[2]["error"]["message"].startswith("row 3: not valid JSON")

    def test_a_long_list_that_fails_is_one_error(self, tables, rows):
        """TorchServe cuts long answers that are errors."""
        bad, good = changed(rows[0], rooms="x"), changed(rows[0])
        answer = ask_both(tables, dump([bad] * 70))
        assert answer.status == 400
        assert answer.body["error"]["code"] == "bad_value"
        assert answer.body["error"]["message"].startswith("none of 70 items can be used; row 1, column 'rooms'")
        answer = ask_both(tables, dump([bad] * 69 + [good]))
        assert answer.status == 200
        assert ["error" in entry for entry in answer.body["predictions"]] == [True] * 69 + [False]
        answer = ask(tables, dump([bad] * 64))
        assert (answer.status, len(answer.body["predictions"])) == (400, 64)

    def test_a_request_has_10_000_rows_at_most(self, tables, rows, answers):
        many = [rows[number % len(rows)] for number in range(10_001)]
        for form in ("lists", "CSV", "JSON lines", "Parquet"):
            content_type, write = FORMS[form]
            answer = ask_both(tables, write(many[:-1]), content_type)
            assert answer.status == 200
            values = [entry["value"] for entry in answer.body["predictions"]]
            assert len(values) == 10_000
            assert values == pytest.approx([answers[n % len(rows)]["value"] for n in range(10_000)], abs=1e-9)
            answer = ask_both(tables, write(many), content_type)
            assert (answer.status, answer.body["error"]["code"]) == (413, "too_many_instances")
            assert "10001 rows" in answer.body["error"]["message"]

    def test_requests_of_a_batch_do_not_see_each_other(self, tables, rows, answers):
        bodies = [
            dump([changed(row, rooms="x") if number % 5 == 0 else changed(row)]) for number, row in enumerate(rows)
        ]
        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(lambda body: ask(tables, body), bodies))
        assert [answer.status for answer in got] == [400 if number % 5 == 0 else 200 for number in range(len(rows))]
        for number, (answer, expected) in enumerate(zip(got, answers, strict=True)):
            [entry] = answer.body["predictions"]
            assert number % 5 == 0 or entry["value"] == pytest.approx(expected["value"], abs=1e-9)


class TestAnswers:
    def test_what_training_has_not_seen_is_named(self, tables, rows):
        cells = [{}, {"floor_area": 1e6}, {"town": "Atlantis"}, {"built": "2100-01-01", "rooms": -3}, {"energy": None}]
        got = ask_both(tables, dump([changed(rows[0], **change) for change in cells])).body["predictions"]
        assert [entry["unfamiliar"] for entry in got] == [[], ["floor area"], ["town"], ["rooms", "built"], []]
        [entry] = ask_both(tables, dump([{**FLOWER, "colour": "green"}]), name="flowers").body["predictions"]
        assert entry["unfamiliar"] == ["colour"]

    def test_the_interval_is_around_the_value(self, answers):
        for answer in answers:
            interval = answer["interval"]
            assert interval["level"] == 0.9
            assert interval["low"] < answer["value"] < interval["high"]
        truth = [row["price"] for row in houses(40, seed=7)]
        inside = [
            answer["interval"]["low"] <= true <= answer["interval"]["high"]
            for answer, true in zip(answers, truth, strict=True)
        ]
        assert sum(inside) >= 32

    def test_labels_are_ranked(self, tables):
        [answer] = ask_both(tables, dump([FLOWER]), name="flowers").body["predictions"]
        probabilities = [entry["probability"] for entry in answer["ranking"]]
        assert {entry["label"] for entry in answer["ranking"]} == set("abc")
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)

    def test_describe(self, tables):
        [described] = tables.client.describe("houses", customized=True)
        metadata = described["customizedMetadata"]
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        assert metadata["task"] == "tabular-regression"
        assert metadata["target"] == "price"
        columns = {column["name"]: column for column in metadata["input"]["columns"]}
        assert tuple(columns) == FEATURES
        assert [column["kind"] for column in columns.values()] == [
            "number", "number", "category", "date", "boolean", "number"
        ]  # fmt: skip
        assert [name for name, column in columns.items() if column["may_be_missing"]] == ["energy"]
        assert columns["town"]["categories"] == sorted(TOWNS)
        assert metadata["input"]["max_rows"] == 10_000

    def test_metrics(self, tables, rows):
        before = settled(tables)
        ask_both(tables, dump([changed(rows[0]), changed(rows[1], town="Atlantis"), changed(rows[2], rooms="x")]))
        ask(tables, dump([changed(rows[2], rooms="x")]))
        ask(tables, b"[]")
        after = settled(tables)
        grown = {key: after[key] - before[key] for key in after if "_total " in key and after[key] != before[key]}
        assert grown == {
            'marquee_requests_total protocol="rest",status="200"': 1,
            'marquee_requests_total protocol="rest",status="400"': 2,
            'marquee_requests_total protocol="grpc",status="200"': 1,
            'marquee_failures_total code="bad_value"': 3,
            'marquee_failures_total code="bad_table"': 1,
            "marquee_unfamiliar_total ": 2,
        }


def settled(tables: Served) -> dict[str, float]:
    """The series of the houses, when nothing is left to report: workers do so every second."""
    before: dict[str, float] = {}
    for _ in range(30):
        text = requests.get(f"{tables.server.addresses.metrics}/metrics", timeout=60).text
        line = re.compile(
            r'^(marquee_\w+)\{model_name="houses",model_version="1.0",(.*?),?Hostname="[^"]+",\} (\S+)', re.M
        )
        now = {f"{name} {labels}": float(value) for name, labels, value in line.findall(text)}
        if now == before:
            return now
        before = now
        time.sleep(2)
    raise AssertionError("the counts do not come to rest")


class TestExplain:
    @pytest.mark.parametrize("grpc", [False, True], ids=["REST", "gRPC"])
    def test_contributions_add_up_to_the_answer(self, tables, rows, answers, grpc):
        for body in (dump(jsonable(rows[0])), as_csv(rows[:1])):
            answer = tables.client.explain("houses", body, grpc=grpc)
            assert answer.error is None
            explanation = answer.body["explanation"]
            assert explanation["method"] == "shapley"
            assert {part["column"] for part in explanation["contributions"]} == set(FEATURES)
            total = sum(part["contribution"] for part in explanation["contributions"])
            assert explanation["answer"] == pytest.approx(answers[0]["value"], abs=1e-6)
            assert explanation["base_value"] + total == pytest.approx(explanation["answer"], abs=1e-6)

    def test_of_a_label(self, tables):
        answer = tables.client.explain("flowers", dump(FLOWER), label="c")
        assert answer.body["explanation"]["label"] == "c"
        assert answer.body["explanation"]["scale"] == "log_odds"

    def test_bad_requests(self, tables, rows):
        for body, options, message in (
            (dump([changed(row) for row in rows[:2]]), {}, "an explanation is of one input"),
            (dump([changed(rows[0])]), {"method": "gradcam"}, "method: expected auto, shapley, occlusion"),
            (dump([changed(rows[0])]), {"label": "x"}, "leave the label out"),
            (dump({**jsonable(rows[0]), "rooms": "x"}), {}, "row 1, column 'rooms': expected a number"),
        ):
            for grpc in (False, True):
                assert message in str(tables.client.explain("houses", body, grpc=grpc, **options).error)


class TestPredictCommand:
    @pytest.fixture
    def predict(self, tables, script, tmp_path):
        """Runs the command on a file in an empty folder; returns the process, and the lines of the CSV of answers."""

        def run(name: str, body: bytes, *arguments: object, model: str = "houses", code: int = 0):
            (tmp_path / name).write_bytes(body)
            out = ("--out", "answers.csv", "--state", tables.state)
            result = script("predict", model, name, *out, *arguments, check=False, cwd=tmp_path)
            assert result.returncode == code, result.stderr
            assert "Traceback" not in result.stderr
            path = tmp_path / "answers.csv"
            return result, list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []

        return run

    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("a.csv", "CSV"),
            ("a.csv", "CSV with \\r\\n"),
            ("a.csv", "CSV in UTF-16"),
            ("a.csv", "CSV with semicolons and decimal commas"),
            ("a.csv", "CSV without a header"),
            ("a.parquet", "Parquet"),
            ("a.jsonl", "JSON lines"),
        ],
    )
    def test_a_file_in_and_a_csv_out(self, predict, rows, answers, name, form):
        result, lines = predict(name, FORMS[form][1](rows))
        assert result.stdout == "answers.csv: answers to 40 rows\n"
        assert list(lines[0]) == ["line" if name == "a.csv" else "row", "value", "low", "high", "unfamiliar", "error"]
        assert [float(line["value"]) for line in lines] == [answer["value"] for answer in answers]
        assert [float(line["high"]) for line in lines] == [answer["interval"]["high"] for answer in answers]
        if name == "a.csv":  # a quoted town in every fourth row has a line break
            first = 1 if form == "CSV without a header" else 2
            assert [int(line["line"]) for line in lines[:6]] == [first + number for number in (0, 1, 2, 3, 5, 6)]
        else:
            assert [int(line["row"]) for line in lines] == list(range(1, 41))

    @pytest.mark.parametrize("count", [1, 2])
    def test_json_lines_of_objects(self, predict, rows, answers, count):
        """A single object is answered without a list."""
        _, lines = predict("a.jsonl", b"\n".join(dump(jsonable(row)) for row in rows[:count]) + b"\n")
        assert [line["row"] for line in lines] == [str(number + 1) for number in range(count)]
        values = [answer["value"] for answer in answers[:count]]
        assert [float(line["value"]) for line in lines] == pytest.approx(values, abs=1e-9)

    def test_a_part_without_a_good_row_does_not_keep_the_others_from_an_answer(self, predict, rows):
        many = [dict(rows[number % len(rows)], rooms="x" if number >= 5_000 else 3) for number in range(5_500)]
        result, lines = predict("a.csv", as_csv(many), code=1)
        assert ["column 'rooms'" in line["error"] for line in lines] == [number >= 5_000 for number in range(5_500)]
        assert "rows without an answer: 500 of 5500" in result.stderr

    def test_labels_over_grpc(self, predict):
        _, lines = predict("a.csv", as_csv(features(flowers(9))), "--grpc", model="flowers")
        assert list(lines[0]) == [
            "line", "label", "probability", "p(a)", "p(b)", "p(c)", "unfamiliar", "abstained", "error"
        ]  # fmt: skip
        assert {line["label"] for line in lines} == set("abc")
        assert sum(float(lines[0][f"p({label})"]) for label in "abc") == pytest.approx(1)

    @pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
    def test_a_long_file_is_sent_in_parts(self, predict, rows, answers, header):
        many = [rows[number % len(rows)] for number in range(11_000)]
        many[7_000] = {**many[7_000], "rooms": "x"}
        many[8] = {**many[8], "town": "a\u2028line\x0bthat\x85goes on"}
        result, lines = predict("a.csv", as_csv(many, header=header) + b"1,2\n", code=1)
        assert len(lines) == 11_001
        for number, line in enumerate(lines):
            assert int(line["line"]) == number + number // 4 + 1 + header
            if number in (7_000, 11_000):
                message = "column 'rooms': expected a number" if number == 7_000 else ": 2 cells, but"
                assert line["value"] == ""
                assert f": line {line['line']}" in line["error"]
                assert message in line["error"]
            elif number == 8:
                assert line["unfamiliar"] == "town"
            else:
                assert float(line["value"]) == pytest.approx(answers[number % len(rows)]["value"], abs=1e-9)
        assert f"a.csv: rows without an answer: 2 of 11001; first: {lines[7_000]['error']}\n" == result.stderr

    def test_parts_that_would_be_read_in_another_way_are_not_sent(self, predict, rows):
        """``1,234`` is a decimal number in this file, but the second half alone does not show it."""
        many = [{**rows[0], "floor area": 12.5 if number < 10 else 1.234, "energy": None} for number in range(6_000)]
        result, lines = predict("a.csv", as_csv(many, separator=";", decimal=","), code=1)
        assert "the rows from line 5002 on do not show how numbers are written" in result.stderr
        assert not lines

    @pytest.mark.parametrize("protocol", [pytest.param((), id="REST"), pytest.param(("--grpc",), id="gRPC")])
    def test_a_file_without_a_good_row(self, predict, rows, protocol):
        bad = [{**row, "rooms": "x"} for row in rows]
        result, lines = predict("a.csv", as_csv(bad), *protocol, code=1)
        assert len(lines) == 40
        assert "rows without an answer: 40 of 40; first: bad_value: line 2, column 'rooms'" in result.stderr
        result, lines = predict("a.csv", as_csv(bad * 2), *protocol, code=1)
        assert [line["error"].split(",")[0] for line in lines] == [f"bad_value: line {line['line']}" for line in lines]
        assert "rows without an answer: 80 of 80; first: bad_value: line 2, column 'rooms'" in result.stderr

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "a.csv: the table is empty"),
            (b"floor area,rooms,town,built,garden,energy\n", "a.csv: bad_table: expected at least one row"),
            (b"floor area,rom,town,built,garden,energy\n1,2,x,2001-01-01,no,\n", "did you mean 'rooms'?"),
            (b"PK\x03\x04" + b"xl/" * 40, "a.csv: bad_table: expected the text of a table, got a workbook of Excel"),
        ],
    )
    def test_a_file_that_cannot_be_used(self, predict, body, message):
        result, lines = predict("a.csv", body, code=1)
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not lines

    def test_answers_are_printed_without_out(self, tables, rows, answers, script, tmp_path):
        (tmp_path / "a.csv").write_bytes(as_csv(rows))
        (tmp_path / "one.json").write_bytes(dump(jsonable(rows[0])))
        state = ("--state", tables.state)
        printed = script("predict", "houses", tmp_path / "a.csv", *state).stdout
        assert printed.splitlines()[1].startswith(f"2,{answers[0]['value']},")
        told = json.loads(script("predict", "houses", tmp_path / "a.csv", "--json", *state).stdout)
        assert told["predictions"] == answers
        one = script("predict", "houses", tmp_path / "one.json", *state).stdout
        low, high = answers[0]["interval"]["low"], answers[0]["interval"]["high"]
        assert one == f"{tmp_path / 'one.json'}: {answers[0]['value']:.6g} ({low:.6g} to {high:.6g})\n"

    def test_an_explanation(self, tables, rows, script, tmp_path):
        (tmp_path / "one.json").write_bytes(dump(jsonable(rows[0])))
        out = tmp_path / "why.json"
        result = script("predict", "houses", tmp_path / "one.json", "--explain", out, "--state", tables.state)
        assert f"{out}: shapley\n" in result.stdout
        assert "town = Aachen" in result.stdout
        assert {part["column"] for part in json.loads(out.read_text())["contributions"]} == set(FEATURES)
        arguments = (tmp_path / "one.json", "--explain", tmp_path / "why.png", "--state", tables.state)
        refused = script("predict", "houses", *arguments, check=False)
        assert refused.returncode == 1
        assert "ends with .json" in refused.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a.csv", "b.csv", "--out", "x.csv"], "for one file of rows"),
            (["a.json", "--out", "x.txt"], "expected a file for the answers to images"),
            (["a.csv", "--csv", "--json"], "expected one of them"),
            (["a.csv", "--out", "x.csv", "--explain", "y.json"], "an explanation is written to --explain y.json"),
            (["a.csv", "--explain", "y.txt"], "or with .json for a row"),
            ([], "no files named"),
        ],
    )
    def test_usage(self, script, tmp_path, arguments, message):
        result = script("predict", "houses", *arguments, check=False, cwd=tmp_path)
        assert result.returncode == 2
        assert message in result.stderr


@pytest.mark.parametrize("name", ["body.weight", "numbers.center", "numbers.fill"])
def test_the_replay_notices_a_change_of_anything_fitted(folder, tmp_path, name):
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "runs" / "houses" / "bundle", bundle)
    assert replay(Predictor.load(bundle)) == []
    change_one_number(bundle, name)
    with pytest.raises(BundleError, match=r"model\.pt2: sha256 is"):
        Predictor.load(bundle)
    renew_digest(bundle)
    differences = replay(Predictor.load(bundle))
    assert differences[0].startswith("golden/")


@pytest.mark.slow
def test_a_changed_weight_is_not_served(folder, script, tmp_path):
    def edit(unpacked: Path) -> None:
        change_one_number(unpacked / "bundle", "body.weight")
        renew_digest(unpacked / "bundle")

    rewrite(folder / "store" / "houses.mar", tmp_path / "houses.mar", edit)
    arguments = ("--store", tmp_path, "--state", tmp_path / "state", "--port", find_free_port())
    result = script("serve", "start", "houses", *arguments, check=False)
    assert result.returncode == 1
    assert "houses is not served" in result.stderr
    assert "golden answers differ from evaluation's; first: golden/0" in result.stderr
    assert "Traceback" not in result.stderr
    assert_nothing_runs(tmp_path / "state")


def change_one_number(bundle: Path, name: str) -> None:
    """Changes the last number of a float64 tensor inside ``model.pt2`` by a tenth, leaving everything else as it is."""
    path = bundle / "model.pt2"
    with zipfile.ZipFile(path) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    config = next(json.loads(data) for info, data in members.items() if info.filename.endswith("_weights_config.json"))
    entry = next(value for key, value in config["config"].items() if key.endswith(name))
    target = next(info for info in members if info.filename.endswith(f"/{entry['path_name']}"))
    values = np.frombuffer(members[target], np.float64).copy()
    values[-1] = 1.1 * values[-1] + 0.1
    members[target] = values.tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, data in members.items():
            archive.writestr(info, data)
