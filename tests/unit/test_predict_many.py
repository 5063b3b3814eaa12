"""Many images at once: in order, a bounded number of them, one line each, and what failed."""

import csv
import io
import json
import threading
import time
from pathlib import Path

import pytest

from marquee.commands import predict_many as module
from marquee.commands.predict_lines import CsvLines, JsonLines, TextLines, one_line
from marquee.commands.predict_many import predict_many, written
from marquee.commands.predict_sources import Source
from marquee.serving.answers import Answer
from marquee.serving.errors import OperationError


def sources(count: int) -> list[Source]:
    return [Source(name=f"{i}.png", path=Path(f"{i}.png"), content=str(i).encode()) for i in range(count)]


def answer(label: str, **more) -> Answer:
    ranking = [{"label": label, "index": 0, "probability": 0.75}, {"label": "other", "index": 1, "probability": 0.25}]
    body = {"label": label, "probability": 0.75, "ranking": ranking, "distance": 1.5, "abstained": False}
    return Answer(200, {**body, **more, "model": {"name": "m"}})


def error(code: str, status: int = 400, message: str = "no") -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


def sent(count: int, ask, in_flight: int = 4):
    """The JSON lines, and what failed."""
    stream = io.StringIO()
    failures = predict_many(sources(count), ask, JsonLines(stream), in_flight, is_shown=False)
    return [json.loads(line) for line in stream.getvalue().splitlines()], failures


def test_lines_come_in_the_order_of_the_files():
    def ask(body: bytes, content_type: str) -> Answer:
        time.sleep((int(body) * 7 % 5) / 500)
        return answer(body.decode())

    lines, failures = sent(60, ask)
    assert [line["label"] for line in lines] == [str(i) for i in range(60)]
    assert [line["file"] for line in lines] == [f"{i}.png" for i in range(60)]
    assert failures.total == 0


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_number_in_flight_is_bounded(in_flight):
    lock, now, most = threading.Lock(), 0, 0

    def ask(body: bytes, content_type: str) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return answer("a")

    lines, _ = sent(50, ask, in_flight)
    assert len(lines) == 50
    assert 1 <= most <= in_flight


def test_what_failed_is_summed_up():
    def ask(body: bytes, content_type: str) -> Answer:
        number = int(body)
        return error("not_an_image") if number % 10 == 3 else error("too_large", 413) if number == 8 else answer("a")

    lines, failures = sent(40, ask)
    assert len(lines) == 40
    assert lines[3] == {"file": "3.png", "status": 400, "error": {"code": "not_an_image", "message": "no"}}
    expected = "5 of 40 failed (not_an_image 4, too_large 1): 3.png, 8.png, 13.png, 23.png, 33.png"
    assert failures.summary(40) == expected


def test_the_summary_is_short_whatever_failed():
    _, failures = sent(30, lambda body, content_type: error("corrupt_image"))
    assert failures.summary(30).endswith("8.png, 9.png, ...")


def test_a_full_queue_is_asked_again(monkeypatch):
    monkeypatch.setattr(module, "BUSY_WAITS", (0.001, 0.001))
    tried: dict[bytes, int] = {}

    def ask(body: bytes, content_type: str) -> Answer:
        tried[body] = tried.get(body, 0) + 1
        return error("http_503", 503) if body == b"5" and tried[body] < 3 else answer("a")

    _, failures = sent(10, ask)
    assert failures.total == 0
    assert tried[b"5"] == 3


def test_a_model_that_refuses_everything_costs_no_waiting(monkeypatch):
    monkeypatch.setattr(module, "BUSY_WAITS", (0.001, 0.001))
    calls = []

    def ask(body: bytes, content_type: str) -> Answer:
        calls.append(body)
        return error("http_503", 503)

    _, failures = sent(100, ask, in_flight=1)
    assert failures.codes == {"http_503": 100}
    assert len(calls) == 102


def test_without_a_server_there_is_one_error():
    def ask(body: bytes, content_type: str) -> Answer:
        raise OperationError("no answer from http://127.0.0.1:9")

    with pytest.raises(OperationError, match="no answer"):
        sent(10, ask)


def test_a_server_that_goes_away_ends_it():
    def ask(body: bytes, content_type: str) -> Answer:
        if int(body) >= 20:
            raise OperationError("no answer from http://127.0.0.1:9")
        return answer("a")

    stream = io.StringIO()
    with pytest.raises(OperationError, match=r"no answer .*; 20 of 1000 were sent before"):
        predict_many(sources(1000), ask, JsonLines(stream), 4, is_shown=False)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200] * 20 + [0] * 10


def test_one_request_without_an_answer_fails_alone():
    def ask(body: bytes, content_type: str) -> Answer:
        if int(body) == 7:
            raise OperationError("timed out")
        return answer("a")

    lines, failures = sent(20, ask)
    assert failures.codes == {"no_answer": 1}
    assert lines[7]["error"] == {"code": "no_answer", "message": "timed out"}


STRANGE = 'a\nb\r\tc\u2028d\x85e\x00f,"g"\ud800\x0bh'


@pytest.mark.parametrize("form", [CsvLines, JsonLines])
def test_one_line_an_image_whatever_its_label_holds(form):
    stream = io.StringIO()
    lines = form(stream)
    name = "x\n\x1b[31m.png"
    lines.write("first.png", error("not_an_image", message="line\nline"))
    lines.write(name, answer(STRANGE))
    lines.write("last.png", answer("plain, \u00e9"))
    lines.finish()
    text = stream.getvalue()
    text.encode("utf-8")
    written_lines = text.splitlines()  # which ends lines at more characters than \n
    assert len(written_lines) == (4 if form is CsvLines else 3)
    if form is JsonLines:
        assert json.loads(written_lines[1])["label"] == STRANGE
        assert json.loads(written_lines[1])["file"] == name
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert list(rows[0]) == "file label probability ranking distance abstained reason error".split()
        assert rows[0]["error"] == "not_an_image: line\\nline"
        assert rows[1]["label"] == one_line(STRANGE)
        assert json.loads(rows[1]["ranking"]) == {STRANGE: 0.75, "other": 0.25}
        assert (rows[2]["label"], rows[2]["probability"], rows[2]["abstained"]) == ("plain, \u00e9", "0.75", "false")


def test_text_is_one_line_too(capsys):
    TextLines().write("a\nb.png", answer(STRANGE))
    TextLines().write("a\nb.png", error("corrupt_image", message="x\ny"))
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(shown.err.splitlines()) == 1
    assert shown.err == "a\\nb.png: corrupt_image: x\\ny\n"


def test_csv_of_instances_several_labels_and_values():
    stream = io.StringIO()
    lines = CsvLines(stream)
    one = answer("a", labels=["a", "b|c"]).body
    lines.write("list.json", Answer(200, {"predictions": [one, error("corrupt_image").body], "model": {}}))
    lines.finish()
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["file"] for row in rows] == ["list.json[0]", "list.json[1]"]
    assert json.loads(rows[0]["labels"]) == ["a", "b|c"]
    assert rows[1]["error"] == "corrupt_image: no"


def test_csv_of_nothing_but_errors():
    stream = io.StringIO()
    lines = CsvLines(stream)
    lines.write("a.png", error("corrupt_image"))
    lines.finish()
    assert stream.getvalue() == "file,error\na.png,corrupt_image: no\n"


def test_a_file_gets_its_name_in_the_end(tmp_path, capsys):
    out = tmp_path / "new" / "out.csv"
    with written(out) as stream:
        stream.write("first\n")
        assert not out.exists()
    assert out.read_text() == "first\n"
    with pytest.raises(KeyboardInterrupt), written(out) as stream:
        stream.write("second\n")
        raise KeyboardInterrupt
    assert out.read_text() == "first\n"
    assert (tmp_path / "new" / "out.csv.partial").read_text() == "second\n"
    assert "out.csv.partial has the answers until then" in capsys.readouterr().err
