"""The parts of tuning: space and search with a measuring function of the test; load on a small real server."""

import asyncio
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import pytest

from marquee.handlers.core.bundle import read_spec
from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Measurement, Ranking
from marquee.serving.archive import open_archive, replace_spec
from marquee.serving.errors import OperationError
from marquee.serving.model_config import read_model_config, update_model_config
from marquee.serving.tuning.config import TuneConfig
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.serving.tuning.result import Goal, Measured, Trial, frontier
from marquee.serving.tuning.search import FINALISTS, ROUNDS, search
from marquee.serving.tuning.space import Params, space_of
from marquee.serving.tuning.tune import queue_size, tune
from marquee.serving.tuning.workload import read_workload

CONFIG = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 1, "threads": 0, "variant": "auto"}


def measured(point: Params, throughput: float, p99: float = 10.0, **options) -> Measured:
    return Measured(
        point=point,
        slices=(Trial(seconds=1, throughput=throughput, p50_ms=p99 / 2, p95_ms=p99, p99_ms=p99, **options),),
    )


class Machine:
    """A measuring function: throughput and p99 follow from the point alone."""

    def __init__(self, throughput, p99=lambda point: 10.0) -> None:
        self.throughput, self.p99 = throughput, p99
        self.short: list[Params] = []
        self.final: list[Params] = []

    def __call__(self, point, final):
        (self.final if final else self.short).append(point)
        return measured(point, self.throughput(point), self.p99(point)).slices[0]


def always(final):
    return True


class TestSpace:
    def test_the_start_is_what_the_archive_has(self):
        space, start = space_of(CONFIG, ["int8", "fp32"], cores=8, clients=16)
        assert start.to_dict() == {"variant": "int8", "workers": 1, "threads": 8, "batch": 8, "delay": 1}
        assert space.config(start) == {
            "variant": "int8", "minWorkers": 1, "maxWorkers": 1, "threads": 8, "batchSize": 8, "maxBatchDelay": 1,
        }  # fmt: skip
        by_name = {dimension.name: dimension.values for dimension in space.dimensions}
        assert by_name["workers"] == by_name["threads"] == (1, 2, 4, 8)
        assert by_name["batch"] == (1, 2, 4, 8, 16)

    def test_values_of_the_archive_are_among_those_tried(self):
        config = {**CONFIG, "minWorkers": 3, "maxWorkers": 3, "batchSize": 48, "maxBatchDelay": 7, "variant": "fp32"}
        space, start = space_of(config, ["int8", "fp32"], cores=6, clients=16)
        assert start.to_dict() == {"variant": "fp32", "workers": 3, "threads": 2, "batch": 48, "delay": 7}
        for dimension in space.dimensions:
            assert start[dimension.name] in dimension.values

    def test_workers_share_the_cores(self):
        space, start = space_of(CONFIG, ["fp32"], cores=8, clients=16)
        assert space.within_cores(start.having("workers", 4))["threads"] == 2
        assert space.within_cores(start.having("workers", 8))["threads"] == 1
        assert space.within_cores(start)["threads"] == 8

    def test_a_value_that_is_no_number(self):
        with pytest.raises(OperationError, match="batchSize: expected a number from 1, got 'many'"):
            space_of({**CONFIG, "batchSize": "many"}, ["fp32"], 2, 16)


class TestSearch:
    def test_finds_the_best_with_few_measurements(self):
        """Throughput with one maximum along each setting, far from the start."""
        best = {"variant": "int8", "workers": 4, "threads": 2, "batch": 4, "delay": 2}

        def throughput(point):
            distance = abs(point["workers"] - 4) + abs(point["threads"] - 2) + abs(point["batch"] - 4) / 2
            return 1000 / (1 + distance + abs(point["delay"] - 2) / 2 + (point["variant"] != "int8"))

        machine = Machine(throughput)
        space, start = space_of(CONFIG, ["fp32", "int8"], cores=8, clients=16)
        found = search(space, start, machine, Goal(), always)
        assert found.best.point.to_dict() == best
        assert found.complete
        assert len(machine.short) == len(set(machine.short)) < 25
        assert len(machine.final) == FINALISTS * ROUNDS
        # In turn, the start among them.
        assert machine.final[:FINALISTS] == machine.final[FINALISTS : 2 * FINALISTS]
        assert machine.final[0] == start == found.start.point

    def test_the_limit_wins_over_throughput(self):
        machine = Machine(lambda point: 100 * point["batch"], lambda point: 5.0 * point["batch"])
        space, start = space_of(CONFIG, ["fp32"], cores=1, clients=32)
        assert search(space, start, machine, Goal(), always).best.point["batch"] == 32
        assert search(space, start, machine, Goal(p99_ms=21), always).best.point["batch"] == 4

    def test_a_limit_that_nothing_meets_leads_to_the_nearest(self):
        machine = Machine(lambda point: 100.0, lambda point: 50.0 + point["batch"])
        space, start = space_of(CONFIG, ["fp32"], cores=1, clients=16)
        goal = Goal(p99_ms=20)
        found = search(space, start, machine, goal, always)
        assert not goal.meets(found.best)
        assert found.best.point["batch"] == 1

    def test_settings_that_lose_requests_never_win(self):
        def measure(point, final):
            figures = measured(point, 9999, errors=3) if point["workers"] > 1 else measured(point, 10)
            return figures.slices[0]

        space, start = space_of(CONFIG, ["fp32"], cores=4, clients=16)
        found = search(space, start, measure, Goal(), always)
        assert found.best.point["workers"] == 1
        assert any(one.failure == "3 requests were not answered" for one in found.swept)

    def test_noise_does_not_move_it(self):
        machine = Machine(lambda point: 100.0 + point["batch"] / 16)
        space, start = space_of(CONFIG, ["fp32"], cores=1, clients=64)
        swept = search(space, start, machine, Goal(), always).swept
        assert {one.point["batch"] for one in swept} == {4, 8, 16}

    def test_a_start_that_cannot_be_served_is_left_behind(self):
        def measure(point, final):
            return Trial(failure="damaged") if point["variant"] == "int8" else measured(point, 10).slices[0]

        space, start = space_of(CONFIG, ["int8", "fp32"], cores=1, clients=4)
        found = search(space, start, measure, Goal(), always)
        assert found.best.point["variant"] == "fp32"
        assert found.start.failure == "damaged"

    def test_the_end_of_the_time_cuts_the_sweep_and_leaves_a_final(self):
        machine = Machine(lambda point: point["batch"])
        space, start = space_of(CONFIG, ["fp32"], cores=4, clients=16)
        found = search(space, start, machine, Goal(), lambda final: not final and len(machine.short) < 3)
        assert not found.complete
        assert len(machine.short) == 3
        assert len(machine.final) == FINALISTS  # one round
        assert found.best.failure is None


def test_the_frontier_by_hand():
    _, start = space_of(CONFIG, ["fp32"], cores=4, clients=16)
    points = [start.having("batch", size) for size in (1, 2, 4, 8, 16)]
    rates, latencies = (10, 30, 20, 40, 99), (1, 2, 3, 4, 5)
    all_measured = [measured(*values) for values in zip(points, rates, latencies, strict=True)]
    all_measured[4] = Measured(point=points[4], slices=(Trial(failure="no"),))
    assert [one.throughput for one in frontier(all_measured)] == [10, 30, 40]


def test_queue_size_by_hand():
    _, start = space_of(CONFIG, ["fp32"], cores=4, clients=16)
    best = measured(start.having("workers", 2), 1000.0)
    # 260 ms are 200 ms with some spread; at 1000 a second those are 200 requests, 16 of which two workers hold.
    assert queue_size(best, Goal(p99_ms=260), clients=16) == 184
    assert queue_size(best, Goal(), clients=16) == 753
    assert queue_size(best, Goal(p99_ms=20), clients=16) == 16


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"clients": 0}, {"p99_ms": -1}, {"max_accuracy_drop": 1.0}])
def test_bad_wishes_name_the_option(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name.replace("_", "-")):
        TuneConfig(**wrong)


class TestModelConfig:
    def archive(self, tmp_path, text):
        path = tmp_path / "a.mar"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other", b"as it was")
            if text is not None:
                archive.writestr("model-config.yaml", text)
        return path

    def test_other_keys_and_comments_stay(self, tmp_path):
        text = "# mine\nminWorkers: 1  # one\nhandler:\n  deep: {a: 1}\nbatchSize: 8"
        path = self.archive(tmp_path, text)
        update_model_config(path, {"batchSize": 16, "jobQueueSize": 7})
        with zipfile.ZipFile(path) as archive:
            assert archive.read("model-config.yaml").decode() == text.replace("8", "16") + "\njobQueueSize: 7\n"
            assert archive.read("other") == b"as it was"
            assert archive.namelist() == ["other", "model-config.yaml"]

    @pytest.mark.parametrize("text", ["{a: 1, batchSize: 8}", "batchSize: >\n  8\na: 1\n", "", None])
    def test_any_style_gets_the_values(self, tmp_path, text):
        path = self.archive(tmp_path, text)
        before = read_model_config(path)
        update_model_config(path, {"batchSize": 4})
        assert read_model_config(path) == {**before, "batchSize": 4}

    @pytest.mark.parametrize("text", ["- a list", "a: [", "text"])
    def test_a_damaged_one_is_named_and_kept(self, tmp_path, text):
        path = self.archive(tmp_path, text)
        before = path.read_bytes()
        with pytest.raises(OperationError, match=r"a\.mar: its model-config\.yaml is not a YAML mapping"):
            update_model_config(path, {"batchSize": 4})
        assert path.read_bytes() == before


@contextmanager
def answering(answer):
    """A server whose connections are handled by the coroutine ``answer(reader, writer)``."""
    loop, ports = asyncio.new_event_loop(), []
    ready, end = threading.Event(), asyncio.Event()

    async def serve():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield Endpoint(host="127.0.0.1", port=ports[0], path="/predictions/a", token="t")
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)


async def read_request(reader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
    return head, await reader.readexactly(length)


class TestLoad:
    def test_requests_are_whole_and_answers_are_counted(self):
        seen = []

        async def answer(reader, writer):
            try:
                while True:
                    seen.append(await read_request(reader))
                    # In two pieces, as a network may have it.
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                    await writer.drain()
                    await asyncio.sleep(0.001)
                    writer.write(b"ngth: 3\r\n\r\nabc")
            except asyncio.IncompleteReadError:
                writer.close()

        with answering(answer) as endpoint:
            load = closed_loop(endpoint, [b"one", b"second"], clients=3, seconds=0.3)
        assert load.answered == load.sent == len(seen) > 3
        assert load.errors == load.rejected == 0
        assert {body for _, body in seen} == {b"one", b"second"}
        assert all(head.startswith("POST /predictions/a HTTP/1.1\r\n") for head, _ in seen)
        assert all("Authorization: Bearer t\r\n" in head for head, _ in seen)
        assert 1 <= load.percentile_ms(50) <= load.percentile_ms(99)

    def test_refusals_and_lost_connections_are_told_apart(self):
        async def answer(reader, writer):
            """The first request of a connection is refused, by its body in one of four ways."""
            _, body = await read_request(reader)
            if body == b"503":
                writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            elif body == b"400":
                writer.write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
            elif body == b"none":
                writer.write(b"nonsense\r\n\r\n")
            writer.close()

        with answering(answer) as endpoint:
            for body in (b"503", b"400", b"none", b"lost"):
                load = closed_loop(endpoint, [body], clients=2, seconds=0.2)
                assert load.sent > 3
                assert load.answered == 0
                assert load.rejected == (load.sent if body == b"503" else 0)
                assert load.errors == (0 if body == b"503" else load.sent)
                assert load.failures.get("connection", 0) == (load.sent if body in (b"none", b"lost") else 0)

    def test_no_server(self):
        endpoint = Endpoint(host="127.0.0.1", port=1, path="/")
        with pytest.raises(OperationError, match="no answer from 127.0.0.1:1"):
            closed_loop(endpoint, [b"x"], 2, 0.1)


class TestVariants:
    """The digits' archive with variants whose measurements the test made up."""

    @pytest.fixture
    def archive(self, store, tmp_path):
        path = tmp_path / "digits.mar"
        path.write_bytes((store / "digits.mar").read_bytes())
        with open_archive(path) as folder:
            spec = read_spec(folder)
        host = this_host()

        def variant(name, drop, **options):
            measured = Measurement(
                host=host, date="2026-01-01", threads=1, images=1000, accuracy=0.9, drop=drop, agreement=0.98,
                drop_interval=(drop - 0.004, drop + 0.004), difference=0.1, latency_p50_ms=1, latency_p99_ms=1,
                load_seconds=1, memory_bytes=1, file_bytes=1,
            )  # fmt: skip
            return replace(spec.variants[0], name=name, measurements=(measured,), **options)

        variants = (
            *spec.variants,
            variant("careful", 0.0),
            variant("bold", 0.02),
            replace(spec.variants[0], name="unknown"),
            variant("absent", 0.0, files={"variants/absent/a.bin": "0" * 64}),
            variant("refused", 0.5),
        )
        order = ("bold", "careful", "unknown", "absent", "fp32")
        ranking = Ranking(host=host, date="2026-01-01", order=order, max_accuracy_drop=0.05)
        replace_spec(path, replace(spec, variants=variants, rankings=(ranking,)).to_json().encode())
        return path

    def test_those_of_the_ranking_are_tried(self, archive):
        workload = read_workload(archive, None, None, "cpu")
        assert workload.variants == ("bold", "careful", "unknown", "fp32")
        assert workload.left_out == {"absent": "is not in the archive"}
        assert len(workload.bodies) >= 16

    def test_a_stricter_budget_leaves_out_those_that_lose_more(self, archive):
        workload = read_workload(archive, None, 0.005, "cpu")
        assert workload.variants == ("careful", "fp32")
        assert workload.left_out["bold"] == "may lose 2.40% of the accuracy, 0.50% are allowed"
        assert workload.left_out["unknown"] == "its accuracy was never measured"


def test_an_absent_archive_and_an_empty_folder(tmp_path, store, caplog):
    options = {"server_config": tmp_path / "config.properties"}
    with pytest.raises(OperationError, match=r"absent\.mar: not found"):
        tune(tmp_path / "absent.mar", TuneConfig(), **options)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no image")
    caplog.set_level("INFO", "marquee")
    with pytest.raises(OperationError, match="no image in it can be read"):
        tune(store / "digits.mar", TuneConfig(), images=tmp_path / "images", **options)
    assert "a.png" in caplog.messages[0]
    assert not (store / ".digits.tuning").exists()
