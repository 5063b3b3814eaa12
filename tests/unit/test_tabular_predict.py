"""``marquee predict`` for files of rows: what is sent, in which parts, and what becomes of parts that are refused."""

import csv
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import marquee
from marquee.commands.predict_table import Limits, predict_table
from marquee.handlers.core.payload import encode_answer, parse
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.table.options import TextOptions
from marquee.handlers.inputs.table.reader import TableReader
from marquee.handlers.inputs.table.spec import table_of
from marquee.serving.client import Answer
from marquee.serving.errors import OperationError


class Server:
    """Answers as a worker does.

    Args:
        predictor: of a model of tables.
        changes: of its schema.
    """

    def __init__(self, predictor: Predictor, **changes) -> None:
        self.predictor, self.spec = predictor, replace(table_of(predictor.spec), **changes)
        self.bodies: list[bytes] = []
        self.refused = 0

    def ask(self, body: bytes) -> Answer:
        self.bodies.append(body)
        source = TableReader(self.spec)
        request = parse({"body": body}, source)
        answers = self.predictor.predict_batch(source.collate(request.items))
        status, text = encode_answer(answers, request.is_list, {"name": "t", "version": "1.0"})
        answer = Answer(status, json.loads(text))
        self.refused += "predictions" not in answer.body
        return answer

    @property
    def limits(self) -> Limits:
        """As the server describes them."""
        return Limits.of(json.dumps({"input": self.spec.describe()}))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    lines = [f"{a},{'rgb'[n % 3]},{2 * a + n % 3}" for n, a in enumerate(rng.normal(size=60).round(3).tolist())]
    (folder / "t.csv").write_text("\n".join(["size,colour,y", *lines]))
    settings = {"table": {"target": "y"}, "loop": {"epochs": 2}}
    marquee.train(folder / "t.csv", folder / "run", task="tabular-regression", **settings)
    return marquee.load(folder / "run")


@pytest.fixture
def send(predictor, tmp_path, capsys):
    """Sends a file; returns the lines of the answers, the server and what was written to stderr."""

    def call(name: str, content: bytes, limits: Limits | None = None, **changes):
        (tmp_path / name).write_bytes(content)
        server, out = Server(predictor, **changes), tmp_path / "answers.csv"
        failed = predict_table(tmp_path / name, server.ask, out, limits or server.limits)
        lines = list(csv.DictReader(out.read_text().splitlines()))
        assert failed == sum(line["error"] != "" for line in lines)
        assert all((line.get("value", "") == "") == (line["error"] != "") for line in lines)
        return lines, server, capsys.readouterr().err

    return call


def rows(count: int, bad: range = range(0)) -> list[str]:
    return [f"{'x' if n in bad else n / 100},{'rgb'[n % 3]}" for n in range(count)]


def body(lines: list[str], header: bool = True) -> bytes:
    return "".join(f"{line}\n" for line in (["size,colour"] * header + lines)).encode()


class TestWhole:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    def test_a_small_file_is_sent_as_it_is(self, send, encoding):
        content = "sep=;\r\nsize;colour\r\n0,5;grün\r\n\r\n1,5;b\r\n".encode(encoding)
        if encoding == "utf-8-sig":
            content = content.replace(b"sep=;\r\n", b"")
        lines, server, _ = send("a.csv", content)
        assert server.bodies == [content]
        assert [line["line"] for line in lines] == (["2", "4"] if encoding == "utf-8-sig" else ["3", "5"])
        assert lines[0]["unfamiliar"] == "colour"

    def test_the_server_decides_how_numbers_are_written(self, send, predictor):
        """Nothing in the file tells whether 1,250 is 1.25 or 1250; the model's description does."""
        content = b"size;colour\n1,250;r\n2,500;g\n"
        lines, server, _ = send("a.csv", content, text=TextOptions(decimal="comma"))
        assert server.bodies == [content]
        expected = predictor.answer([{"size": 1.25, "colour": "r"}, {"size": 2.5, "colour": "g"}])
        assert [float(line["value"]) for line in lines] == pytest.approx([e.value for e in expected], abs=1e-9)
        assert [line["line"] for line in lines] == ["2", "3"]

    def test_an_encoding_that_was_stated_for_training(self, send):
        content = "size,colour\n0.5,\u0434\u0430\n".encode("utf-16-le")
        lines, server, _ = send("a.csv", content, text=TextOptions(encoding="utf-16-le"))
        assert server.bodies == [content]
        assert lines[0]["unfamiliar"] == "colour"

    def test_parquet(self, send, tmp_path):
        pq.write_table(pa.table({"size": [0.5, 1.5], "colour": ["r", "b"]}), tmp_path / "a.parquet")
        lines, _, _ = send("a.parquet", (tmp_path / "a.parquet").read_bytes())
        assert [line["row"] for line in lines] == ["1", "2"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", b"", "the table is empty"),
            ("a.csv", b"size,colour\n", "expected at least one row"),
            ("a.csv", b"size,color\n1,r\n", "did you mean 'colour'"),
            ("a.csv", b"PK\x03\x04" + b"xl/" * 40, "a workbook of Excel"),
            ("a.jsonl", b"[1, 2\n", "not valid JSON"),
            ("a.parquet", b"PAR1" + bytes(40) + b"PAR1", "damaged"),
        ],
    )
    def test_what_cannot_be_used_is_said_in_one_line(self, predictor, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OperationError, match=message) as caught:
            predict_table(tmp_path / name, Server(predictor).ask, tmp_path / "out.csv", Limits())
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out.csv").exists()

    def test_a_model_of_single_items(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(body(rows(3)))
        with pytest.raises(OperationError, match="the model answers single items; is it a model of tables"):
            predict_table(tmp_path / "a.csv", lambda _: Answer(200, {"label": "cat", "model": {}}), None, Limits())

    def test_a_server_that_is_not_there_is_asked_once(self, tmp_path):
        asked = []

        def ask(content: bytes) -> Answer:
            asked.append(content)
            return Answer(404, {"error": {"code": "http_404", "message": "Model not found: t"}})

        (tmp_path / "a.csv").write_bytes(body(rows(20_000)))
        with pytest.raises(OperationError, match="http_404: Model not found"):
            predict_table(tmp_path / "a.csv", ask, None, Limits())
        assert len(asked) == 1


class TestParts:
    @pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
    def test_one_part_without_a_good_row(self, send, header):
        """The others are answered, and each bad row gets the error of its own."""
        lines, server, told = send("a.csv", body(rows(12_000, range(4_000, 11_000)), header))
        assert len(lines) == 12_000
        for number, line in enumerate(lines):
            assert int(line["line"]) == number + 1 + header
            if 4_000 <= number < 11_000:
                assert line["error"].startswith(f"bad_value: line {line['line']}, column 'size': expected a number")
        assert "rows without an answer: 7000 of 12000" in told
        assert len(server.bodies) < 300

    @pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
    @pytest.mark.slow
    def test_a_long_file_without_a_good_row_takes_a_bounded_number_of_requests(self, send, header):
        lines, server, _ = send("a.csv", body(rows(15_000, range(15_000)), header))
        assert [int(line["line"]) for line in lines] == list(range(1 + header, 15_001 + header))
        assert all("column 'size': expected a number" in line["error"] for line in lines)
        assert f"line {lines[0]['line']}, column 'size'" in lines[0]["error"]
        assert lines[-1]["error"].startswith("bad_value: none of ")  # the rows of a part share the error of one
        assert len(server.bodies) < 600

    def test_a_part_that_goes_on_over_lines(self, send):
        many = [f'{"x" if n > 5_000 else n / 100},"a\nb"\n' for n in range(6_000)]
        lines, _, _ = send("a.csv", b"\n\nsize,colour\n\n" + body(many, header=False))
        for number, line in enumerate(lines):
            assert int(line["line"]) == 5 + 3 * number
            assert line["error"] == "" or f"line {line['line']}," in line["error"]

    @pytest.mark.parametrize("known", [True, False], ids=["described", "not described"])
    @pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
    @pytest.mark.parametrize("limit", [{"max_rows": 7}, {"max_rows": 1}, {"max_bytes": 100}])
    def test_limits_of_the_model(self, send, header, known, limit):
        lines, server, _ = send("a.csv", body(rows(40), header), None if known else Limits(), **limit)
        assert [int(line["line"]) for line in lines] == list(range(1 + header, 41 + header))
        assert [line["error"] for line in lines] == [""] * 40
        assert not known or server.refused <= 1
        assert server.refused < 10

    def test_a_row_that_is_too_large_fails_alone(self, send):
        many = rows(30)
        many[11] = f"{'9' * 200},r"
        lines, _, _ = send("a.csv", body(many), max_bytes=150)
        assert [number for number, line in enumerate(lines) if line["error"]] == [11]
        assert lines[11]["error"].startswith("too_large: the body has")

    def test_parts_that_would_be_read_in_another_way_are_not_sent(self, predictor, tmp_path):
        many = [f"{'12,5' if n < 10 else '1,234'};r" for n in range(6_000)]
        (tmp_path / "a.csv").write_bytes(b"size;colour\n" + body(many, header=False))
        server = Server(predictor)
        with pytest.raises(OperationError, match="the rows from line 5002 on do not show how numbers are written"):
            predict_table(tmp_path / "a.csv", server.ask, None, Limits())


OBJECTS = ['{"size": 0.5, "colour": "r"}', '{"size": "x", "colour": "r"}', '{"sise": 0.5, "colour": "r"}']


class TestJsonLines:
    @pytest.mark.parametrize("line", ['{"size": 0.5, "colour": "r"}', '[0.5, "r"]'])
    @pytest.mark.parametrize("count", [1, 2])
    def test_one_line_or_several(self, send, predictor, line, count):
        """The server answers a single object without a list."""
        (expected,) = predictor.answer([{"size": 0.5, "colour": "r"}])
        lines, _, _ = send("a.jsonl", f"{line}\n".encode() * count)
        assert [line["row"] for line in lines] == [str(n + 1) for n in range(count)]
        assert float(lines[0]["value"]) == pytest.approx(expected.value, abs=1e-9)
        assert float(lines[0]["low"]) == pytest.approx(expected.interval[0], abs=1e-9)

    @pytest.mark.parametrize("line", OBJECTS[1:])
    @pytest.mark.parametrize("count", [1, 2])
    def test_a_bad_row_alone_is_one_of_the_answers(self, send, line, count):
        lines, _, told = send("a.jsonl", f"{line}\n".encode() * count)
        assert len(lines) == count
        assert "siz" in lines[0]["error"]
        assert f"rows without an answer: {count} of {count}" in told

    @pytest.mark.parametrize("line", ['[[0.5, "r"], [1.5, "b"]]', '{"instances": [[0.5, "r"], {"size": 1}]}'])
    def test_a_document_in_one_line(self, send, line):
        lines, _, _ = send("a.jsonl", line.encode())
        assert [line["row"] for line in lines] == ["1", "2"]

    def test_a_document_in_one_line_without_a_good_row(self, predictor, tmp_path):
        (tmp_path / "a.jsonl").write_text(f"[{','.join([OBJECTS[1]] * 70)}]")
        with pytest.raises(OperationError, match="none of 70 items can be used; row 1, column 'size'"):
            predict_table(tmp_path / "a.jsonl", Server(predictor).ask, None, Limits())

    def test_a_document_in_several_lines(self, send):
        lines, _, _ = send("a.jsonl", f"[\n{OBJECTS[0]},\n{OBJECTS[1]}\n]".encode())
        assert [line["error"] != "" for line in lines] == [False, True]

    def test_a_long_file_is_sent_in_parts(self, send):
        many = [OBJECTS[5_500 <= n < 11_000] for n in range(12_001)]
        lines, _, _ = send("a.jsonl", "\n\n".join(many).encode())
        assert len(lines) == 12_001
        for number, line in enumerate(lines):
            assert int(line["row"]) == number + 1
            bad = 5_500 <= number < 11_000
            assert line["error"].startswith(f"bad_value: row {number + 1}, column 'size'") == bad

    def test_limits_of_the_model(self, send):
        lines, _, _ = send("a.jsonl", "\n".join([OBJECTS[0]] * 10).encode(), max_rows=3)
        assert [line["error"] for line in lines] == [""] * 10


class TestLimits:
    def test_as_described(self):
        described = {"task": "tabular-regression", "input": {"columns": [], "max_rows": 50, "max_bytes": 1000}}
        assert Limits.of(described) == Limits.of(json.dumps(described)) == Limits(rows=50, bytes=1000)

    def test_never_more_than_is_wise(self):
        assert Limits.of({"input": {"max_rows": 10**9, "max_bytes": 10**12}}) == Limits()

    @pytest.mark.parametrize("described", [None, "", "{", [], {"input": 3}, {"input": {"max_rows": "many"}}, {}])
    def test_without_a_description(self, described):
        assert Limits.of(described) == Limits()
