"""The serving benchmark's machinery on tiny servers; nothing here is timed, and no speed is judged."""

import email
import email.policy
import json
import subprocess
import sys
import threading
from base64 import b64decode
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import psutil
import pytest

from benchmarks.photographs import write_photographs
from benchmarks.render import pages, tables
from benchmarks.results import origin, read_result, write_result
from benchmarks.serving.compare import Compare, choose, compare
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.contenders.base import Contender, Site, free_port
from benchmarks.serving.contenders.gateway import Gateway
from benchmarks.serving.contenders.limit import MANY_PROCESSES, ONE_PROCESS
from benchmarks.serving.environments import Environment, Environments
from benchmarks.serving.peers.place import Place, read_place
from benchmarks.serving.processes import ContenderError, cpu_seconds, family, is_alive, memory, started
from benchmarks.serving.servers import CONTENT_TYPES, RestServer, encode, likeliest
from benchmarks.serving.targets import judge, judge_gateway
from benchmarks.serving.turn import Plan, cells_of, take_turn
from tests.conftest import ROOT


class Recorder(BaseHTTPRequestHandler):
    """Refuses the body b"bad"; remembers what came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.lengths.append(self.headers["Inference-Header-Content-Length"])
        self.server.seen.append((self.path, self.headers["Content-Type"], self.headers["Authorization"], body))
        self.send_response(400 if body == b"bad" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def recorder():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.seen, server.lengths = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_load_sends_the_bodies_in_turn_and_counts_refusals(tmp_path, recorder):
    bodies = [b"one\0\r\n\xff", b"bad"]
    files = [tmp_path / "0", tmp_path / "1"]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body)
    url = f"http://127.0.0.1:{recorder.server_port}/predict"
    load = RestServer(process=psutil.Process(), url=url, token=lambda: "a: b").load(files, 2, 0.5)
    assert {(path, kind, token) for path, kind, token, _ in recorder.seen} == {
        ("/predict", "image/jpeg", "Bearer a: b")
    }
    sent = [body for *_, body in recorder.seen]
    assert set(sent) == set(bodies)
    assert abs(sent.count(bodies[0]) - sent.count(bodies[1])) <= 2
    assert (len(load.latencies), load.errors) == (sent.count(bodies[0]), sent.count(bodies[1]))
    assert load.seconds >= 0.5


def test_nobody_there_is_one_line(tmp_path):
    (tmp_path / "body").write_bytes(b"x")
    server = RestServer(process=psutil.Process(), url=f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(ContenderError, match="no answer from 127.0.0.1"):
        server.load([tmp_path / "body"], 1, 1)


def test_a_form_holds_the_photograph_byte_for_byte():
    photograph = bytes(range(256)) + b"\r\n--"
    head = f"Content-Type: {CONTENT_TYPES['form']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + encode(photograph, "form"), policy=email.policy.HTTP)
    (part,) = message.iter_parts()
    assert part.get_payload(decode=True) == photograph
    assert part.get_param("name", header="content-disposition") == "images"


def test_bodies_of_inference_protocols_hold_the_photograph_byte_for_byte(recorder, tmp_path):
    photograph = bytes(range(256)) + b"\r\n"
    assert b64decode(json.loads(encode(photograph, "v1"))["instances"][0]["b64"]) == photograph
    (tensor,) = json.loads(encode(photograph, "v2"))["inputs"]
    assert (tensor["datatype"], tensor["shape"], b64decode(tensor["data"][0])) == ("BYTES", [1, 1], photograph)
    (tmp_path / "body").write_bytes(photograph)
    server = RestServer(process=psutil.Process(), url=f"http://127.0.0.1:{recorder.server_port}/v2", form="v2-binary")
    server.load([tmp_path / "body"], 1, 0.1)
    with pytest.raises(ContenderError, match="not an answer"):  # the same headers, by another way
        server.ask(tmp_path / "body")
    assert len({(length, body) for length, (*_, body) in zip(recorder.lengths, recorder.seen, strict=True)}) == 1
    head, length = recorder.seen[0][-1], int(recorder.lengths[0])
    (tensor,) = json.loads(head[:length])["inputs"]
    size = tensor["parameters"]["binary_data_size"]
    assert head[length:] == len(photograph).to_bytes(4, "little") + photograph
    assert size == len(head) - length


def test_pixels_are_what_a_client_makes_of_a_photograph(tmp_path):
    (path,) = write_photographs(tmp_path / "a", (64, 48), 1)
    pixels = np.array(json.loads(encode(path.read_bytes(), "pixels"))["image_data"])
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == int
    assert (pixels.min() >= 0) & (pixels.max() <= 255)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ({"label": "7", "ranking": []}, "7"),
        ([{"label": "7"}], "7"),
        ({"3": 0.1, "12": 0.8}, "12"),
        ([{"3": 0.9, "12": 0.05}], "3"),
        ({"predictions": [{"label": "7"}]}, "7"),
        ({"outputs": [{"name": "error", "data": [""]}, {"name": "answer", "data": ['{"label": "7"}']}]}, "7"),
    ],
)
def test_every_form_of_answer_has_a_likeliest_label(answer, label):
    assert likeliest(answer) == label


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"outputs": []},
        {"predictions": [{"error": "no image"}]},
        {"error": {"code": "empty"}},
        [{"label": "1"}, {"label": "2"}],
        "7",
        None,
    ],
)
def test_anything_else_is_no_answer(answer):
    with pytest.raises(ContenderError, match="not an answer"):
        likeliest(answer)


def test_a_peer_reads_what_it_was_told(tmp_path, monkeypatch):
    place = Place(port=8001, variant="fp32", material=tmp_path)
    for name, value in place.as_environment().items():
        monkeypatch.setenv(name, value)
    assert read_place() == place


def rates(small, median=(10.0, 10.0, 10.0), large=(8.0, 8.0, 8.0), errors=(0.0, 0.0, 0.0)):
    return {
        "500x375@1/p50_ms": list(median),
        "500x375@1/errors": [0.0] * 3,
        "500x375@16/requests_per_second": list(small),
        "500x375@16/errors": list(errors),
        "4032x3024@16/requests_per_second": list(large),
        "4032x3024@16/errors": [0.0] * 3,
    }


SERIES = {
    ONE_PROCESS: rates((90.0, 100.0, 90.0), (7.0, 9.0, 9.0)),
    MANY_PROCESSES: rates((100.0, 90.0, 120.0), (9.0, 8.0, 12.0)),
    "marquee-int8": rates((90.0, 80.0, 90.0), (10.0, 12.0, 14.0)),
    "fastapi-ours": rates((100.0, 100.0, 90.0)),
    "litserve-ours": rates((10.0, 10.0, 200.0)),
    "torchserve-stock": rates((9.0, 8.0, 9.5), large=(2.5, 2.0, 1.0)),
    "flask": {name: values for name, values in rates((10.0, 8.0, 30.0)).items() if "4032" not in name},
}


def test_targets_are_medians_of_what_was_measured_within_a_round():
    verdicts = judge(SERIES)
    told = [(verdict.measured, verdict.is_met) for verdict in verdicts]
    assert told == [
        ("10.00x", True),  # 10, 10 and 9.47
        ("9.00x", False),  # 9, 10 and 3
        ("0.90x", False),  # the best other one is FastAPI, by its median: 0.9, 0.8 and 1
        ("0.80x", False),  # of 100, 100 and 120, the better way to use the cores in each round
        ("4.0 ms", True),  # above 7, 8 and 9
        ("4.00x", True),  # 3.2, 4 and 8
    ]
    assert "FastAPI" in verdicts[2].promise
    assert (verdicts[1].promise, verdicts[1].wanted) == ("16 clients, beside the article's Flask", "at least 10x")


def test_both_ways_to_serve_are_judged():
    quicker = {**SERIES, "marquee-int8-workers": rates((100.0, 100.0, 60.0))}
    assert judge(quicker) == judge(SERIES)
    assert judge(quicker, "marquee-int8-workers")[3].measured == "1.00x"


GATEWAY_SERIES = {
    "marquee-int8": rates((100.0, 100.0, 120.0), (9.0, 10.0, 11.0)),
    "marquee-int8-gateway": rates((96.0, 90.0, 120.0), (10.0, 12.0, 12.0)),
    "mlserver-predictor": rates((80.0, 50.0, 60.0)),
    "kserve-predictor": rates((70.0, 70.0, 70.0)),
}


def test_the_gateway_is_judged_beside_its_backend_and_the_better_peer():
    verdicts = judge_gateway(GATEWAY_SERIES)
    assert [(verdict.measured, verdict.is_met) for verdict in verdicts] == [
        ("0.96x", True),  # 0.96, 0.9 and 1
        ("1.0 ms", True),  # 1, 2 and 1
        ("1.37x", True),  # KServe by its median: 1.37, 1.29 and 1.71
    ]
    assert "(KServe, our predictor)" in verdicts[2].promise
    assert [verdict.wanted for verdict in verdicts] == ["at least 0.95x", "at most 1.5 ms", "at least 1.3x"]
    slower = {**GATEWAY_SERIES, "marquee-int8-gateway": rates((94.0, 90.0, 100.0), (12.0, 12.0, 12.0))}
    assert not any(verdict.is_met for verdict in judge_gateway(slower)[:2])
    assert [verdict.measured for verdict in judge_gateway({"marquee-int8": SERIES["marquee-int8"]})] == [None] * 3


def test_a_load_with_errors_proves_nothing():
    wrong = {**SERIES, "marquee-int8": rates((900.0, 800.0, 900.0), errors=(0.0, 1.0, 0.0))}
    measured = [verdict.measured for verdict in judge(wrong)]
    assert measured[:4] == [None] * 4
    assert measured[4] is not None
    without = {name: metrics for name, metrics in SERIES.items() if name != "torchserve-stock"}
    assert [verdict.measured is None for verdict in judge(without)] == [True, False, False, False, False, True]
    # A peer whose answers are errors is not the best one either.
    quick = {**SERIES, "bentoml-ours": rates((999.0, 999.0, 999.0), errors=(5.0, 5.0, 5.0))}
    assert judge(quick)[2] == judge(SERIES)[2]


def whole(series):
    extra = {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0, "cpu_ms": 4.0, "other_cores": 0.25}
    filled = {}
    for name, metrics in series.items():
        cells = {metric.partition("/")[0] for metric in metrics}
        more = {f"{cell}/{key}": [value] * 3 for cell in cells for key, value in extra.items()}
        totals = {name: [5.0] * 3 for name in ("start_seconds", "pss_mb", "rss_mb")}
        filled[name] = {**more, **{f"{cell}/requests_per_second": [1.0] * 3 for cell in cells}, **metrics, **totals}
    return filled


def test_the_page_shows_promises_loads_and_who_was_left_out(tmp_path):
    machine = {"cpu": "A CPU", "cores": 2, "isa": "AVX2", "isa_flags": ["avx2"], "threads": 2, "load": 0.0}
    settings = {
        "cells": [["500x375", 1], ["500x375", 16], ["4032x3024", 16]],
        "seconds": 3,
        "warmup": 4,
        "left_out": {"ray-ours": "ray-ours: it ended before its first answer"},
        "versions": {"flask": "3.1"},
    }
    series = whole({**SERIES, "litserve-ours": rates((10.0, 10.0, 200.0), errors=(0.0, 3.0, 4.0))})
    source = {**origin("compare"), "machine": machine}
    text = tables(read_result(write_result(tmp_path, source, settings, series, "torchserve-stock")))
    assert "| 16 clients, beside the article's Flask | at least 10x | 9.00x, **missed** |" in text
    assert "### Photographs of 500x375, 1 client\n" in text
    assert "| Marquee, openvino-int8 | 90.0 (80.0 to 90.0) | 10.00x | 1.0 (1.0 to 1.0) | 3.0 (3.0 to 3.0) |" in text
    assert "| LitServe, our predictor | 10.0 (10.0 to 200.0) | 1.25x |" in text
    assert "| **7** |" in text
    large = text[text.index("### Photographs of 4032x3024") : text.index("### Start and memory")]
    assert "Flask" not in large
    assert "Left out: ray-ours: it ended before its first answer." in text
    assert "A CPU, 2 cores" in text
    assert "In 60 of 60 loads other processes used more than 0.2 cores (at most 0.25)." in text


def test_a_result_of_the_gateway_shows_its_promises_only(tmp_path):
    settings = {"cells": [["500x375", 1], ["500x375", 16]], "seconds": 3, "warmup": 4, "left_out": {}, "versions": {}}
    machine = {"cpu": "A CPU", "cores": 2, "isa": "AVX2", "isa_flags": ["avx2"], "threads": 2, "load": 0.0}
    source = {**origin("compare"), "machine": machine}
    path = write_result(tmp_path, source, settings, whole(GATEWAY_SERIES), "marquee-int8")
    text = tables(read_result(path))
    assert "| 16 clients, beside TorchServe's own port | at least 0.95x | 0.96x, met |" in text
    assert "Flask" not in text
    assert "beside Marquee, openvino-int8" in text


def test_the_page_names_every_contender():
    (page,) = (path for path in pages() if path.parent.name == "serving")
    text = page.read_text("utf-8")
    for name in CONTENDERS:
        assert f"`{name}`" in text or f"`{name.rpartition('-')[0]}-*`" in text, name


def test_who_sends_pixels_is_asked_for_one_size_only():
    cells = (((64, 48), 1), ((64, 48), 16), ((128, 96), 16))
    assert cells_of(CONTENDERS["flask"], cells) == list(cells[:2])
    assert cells_of(CONTENDERS["marquee-int8"], cells) == list(cells)


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="rounds: expected"):
        Compare(rounds=0)
    with pytest.raises(ValueError, match="contenders: no 'nobody'"):
        Compare(contenders=("nobody",))


def test_who_is_not_installed_is_left_out_by_name(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.serving.contenders.base.find_spec", lambda name: None if name == "ray" else True)
    names = [one.name for one in choose(Compare().contenders)]
    assert {"in-process-threads", "marquee-int8", "fastapi-ours", "bentoml-ours", "flask"} <= set(names)
    assert not {"ray-ours", "ray-eager"} & set(names)
    assert "LEFT OUT: ray-ours: not installed: ray; see requirements.txt\n" in capsys.readouterr().err


def test_a_peer_without_its_environment_is_left_out_with_the_command_that_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.serving.environments.FOLDER", tmp_path)
    assert [one.name for one in choose(("marquee-int8", "kserve-predictor"))] == ["marquee-int8"]
    told = "not installed: kserve; python -m benchmarks.serving.environments --names kserve\n"
    assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match="names: no 'nobody'"):
        Environments(names=("nobody",))


def test_an_environment_has_its_own_packages_first(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.serving.environments.FOLDER", tmp_path / "environments")
    monkeypatch.setattr("benchmarks.serving.environments.ROOT", tmp_path)
    environment = Environment("tiny")
    package = tmp_path / "package"
    package.mkdir()
    (package / "requests.py").write_text("mine = True\n")
    (package / "pyproject.toml").write_text(
        '[project]\nname = "tiny"\nversion = "1.5"\n[tool.setuptools]\npy-modules = ["requests"]\n'
    )
    (tmp_path / "benchmarks").mkdir()
    environment.requirements.write_text(f"{package}\n")
    assert not environment.is_made
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # by setuptools as it is here, without a network
    environment.make()
    assert (environment.is_made, environment.version()) == (True, "1.5")
    code = "import requests, numpy; print(requests.mine, hasattr(numpy, 'array'))"
    shown = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout == "True True\n", shown.stderr
    environment.requirements.write_text(f"{package}\n# changed\n")
    assert (environment.is_made, environment.version()) == (False, None)


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; held = bytes(range(250)) * 200_000; time.sleep(60)"])
print(child.pid, flush=True)
until = time.process_time() + 0.2
while time.process_time() < until: pass
time.sleep(60)
"""


def test_a_family_is_weighed_and_ended_together(tmp_path):
    log = tmp_path / "logs" / "log"
    with started([sys.executable, "-c", PARENT], tmp_path, log) as root:
        while cpu_seconds(root) < 0.2 or memory(root)["rss_mb"] < 60:
            assert is_alive(root)
        members = family(root)
        assert [member.pid for member in members] == [root.pid, int(log.read_text())]
        held = memory(root)
        assert 50 < held["pss_mb"] <= held["rss_mb"]
    assert not any(is_alive(member) for member in members)
    assert family(root) == []


def test_a_gateway_is_weighed_with_torchserve_which_is_no_child_of_it():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as gateway, subprocess.Popen(command) as host:
        try:
            assert [one.pid for one in family(Gateway(gateway.pid, host.pid))] == [gateway.pid, host.pid]
        finally:
            gateway.kill()
            host.kill()


TINY = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sum(range(300_000))  # some milliseconds: the system counts CPU time by the hundredth of a second
        answer = json.dumps({"label": sys.argv[2] or str(len(body))}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(answer))); self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments): pass
if sys.argv[1] == "0": sys.exit("no port was given")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def tiny(label: str = "", fails: bool = False) -> Contender:
    """A real server whose label is the length of the body, or always the same."""

    @contextmanager
    def start(site):
        port = free_port()
        command = [sys.executable, "-c", TINY, "0" if fails else str(port), label]
        with started(command, ROOT, site.log("tiny")) as process:
            yield RestServer(process=process, url=f"http://127.0.0.1:{port}/")

    return Contender(name="tiny", title="tiny", kind="eager", start=start, reference="eager")


SIZE, PLAN = (64, 48), Plan(cells=(((64, 48), 1), ((64, 48), 4)), seconds=0.5, warmup=0.2)


def test_a_turn_measures_a_real_server(tmp_path, capsys):
    site = Site(work=tmp_path)
    photograph = write_photographs(tmp_path / "photographs" / "64x48", SIZE, 8, 6.0)[0]
    values = take_turn(tiny(), site, PLAN, {SIZE: str(photograph.stat().st_size)})
    names = ("requests_per_second", "p50_ms", "p99_ms", "cpu_ms", "errors", "other_cores")
    assert set(values) == {"start_seconds", "rss_mb", "pss_mb"} | {
        f"64x48@{clients}/{name}" for clients in (1, 4) for name in names
    }
    assert values["64x48@4/errors"] == 0
    assert all(value > 0 for name, value in values.items() if not name.endswith(("errors", "other_cores")))
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_wrong_answer_ends_the_turn(tmp_path):
    site = Site(work=tmp_path)
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ContenderError, match=r"tiny: 64x48: expected the label 12, got 7"):
        take_turn(tiny("7"), site, PLAN, {SIZE: "12"})
    with pytest.raises(ContenderError, match=r"ended before its first answer; its log ends with: no port was given"):
        take_turn(tiny(fails=True), site, PLAN, {SIZE: "12"})
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.slow
def test_peers_give_the_right_answers_and_become_a_table(tmp_path):
    names = ("fastapi-eager", "flask")
    if missing := [module for name in names for module in CONTENDERS[name].missing]:
        pytest.skip(f"{', '.join(missing)}: not installed; benchmarks/requirements.txt has it")
    settings = Compare(contenders=names, rounds=1, work=tmp_path, results=tmp_path / "results")
    path = compare(settings, Plan(cells=(((500, 375), 2),), seconds=0.5, warmup=0.2))
    result = read_result(path)
    assert list(result["series"]) == list(names)
    assert result["settings"]["left_out"] == {}
    assert all(metrics["500x375@2/errors"] == [0.0] for metrics in result["series"].values())
    assert "| FastAPI, eager |" in tables(result)
    assert not (tmp_path / "turns").exists()
