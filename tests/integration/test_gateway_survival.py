"""No request is lost, whatever ends: workers, the host, a version. A real TorchServe, real signals, and the gateway's
parts that deliver; each answer is compared with evaluation's."""

import asyncio
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.gateway.load import Counts, Load, Question, read_questions
from marquee.gateway import metrics
from marquee.gateway.backend import Call
from marquee.gateway.config import GatewayConfig
from marquee.gateway.delivery import Deliverer
from marquee.gateway.errors import GatewayError
from marquee.gateway.torchserve.target import Target
from marquee.serving import server as serving
from marquee.serving.record import Server, find
from tests import forked
from tests.conftest import find_free_port
from tests.gateway_pieces import PATIENCE, Pieces, happens, is_running, pieces
from tests.integration.test_refusal import change_one_weight, renew_digest, rewrite

QUEUE = 32
KILLS = 4
"""In the middle of a load; the long one is in benchmarks/gateway."""
PAUSE = 0.03
"""Seconds between a caller's answer and its next request, so that the load is no flood."""
SLEEPY = '''
import time
from pathlib import Path


def handle(data, context):
    """The first request that says "forget" is never answered; nobody works on it, either."""
    if data is None:
        return None
    answers = []
    for row in data:
        body = bytes(row.get("body") or row.get("data"))
        marker = Path(context.system_properties["model_dir"]) / "forgotten"
        if body == b"forget" and not marker.exists():
            marker.touch()
            time.sleep(600)
        answers.append(body)
    return answers
'''


@pytest.fixture(scope="module")
def fleet(run, script, tmp_path_factory) -> Path:
    """A store with digits 1.0, 2.0, 3.0, which answers differently and does not check itself, and ``sleepy``."""
    folder = tmp_path_factory.mktemp("fleet")
    for version in ("2.0", "1.0"):
        script("package", run, "--name", "digits", "--version", version, "--store", folder)

    def edit(unpacked: Path) -> None:
        change_one_weight(unpacked / "bundle")
        renew_digest(unpacked / "bundle")
        handler = unpacked / "handlers" / "core" / "handler.py"
        code = handler.read_text()
        assert "            verify_golden(loaded)\n" in code
        handler.write_text(code.replace("            verify_golden(loaded)\n", ""))
        manifest = unpacked / "MAR-INF" / "MANIFEST.json"
        document = json.loads(manifest.read_text())
        document["model"]["modelVersion"] = "3.0"
        manifest.write_text(json.dumps(document))

    rewrite(folder / "digits-1.0.mar", folder / "digits-3.0.mar", edit)
    pack_sleepy(folder)
    return folder


def pack_sleepy(folder: Path) -> None:
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging import generate_model_archive

    work = folder / "work"
    work.mkdir()
    (work / "sleepy_handler.py").write_text(SLEEPY)
    generate_model_archive(
        ModelArchiverConfig(
            model_name="sleepy", handler=str(work / "sleepy_handler.py"), version="1.0", export_path=str(folder)
        )
    )
    shutil.rmtree(work)


def start(fleet: Path, state: Path, port: int) -> Server:
    settings = {"enable_model_api": "true", "job_queue_size": str(QUEUE)}
    python = forked.interpreter()
    return serving.start(["digits=1.0"], store=fleet, folder=state, port=port, settings=settings, python=python)


@pytest.fixture(scope="module")
def home(fleet, tmp_path_factory) -> Iterator[Server]:
    """A TorchServe of this module; a test may replace it, in the same folder and at the same port."""
    state = tmp_path_factory.mktemp("survival")
    server = start(fleet, state, find_free_port())
    try:
        yield server
    finally:
        if running := find(state):
            serving.stop(running)


@pytest.fixture
def server(home) -> Server:
    """The one that runs now: as :func:`home` started it, or the next one."""
    found = find(home.folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def questions(run) -> list[Question]:
    return read_questions(run)


async def loaded(
    place: Pieces, questions: list[Question], callers: int, disturb: Callable[[], Awaitable[None]]
) -> Counts:
    """The counts of a load that lasts as long as a disturbance."""
    load = Load(place.ask, questions, callers, PAUSE)
    task = asyncio.create_task(load.run())

    async def more() -> None:
        before = load.counts.right
        await happens(lambda: load.counts.right > before + callers or load.counts.wrong + load.counts.lost)

    try:
        await more()
        await disturb()
        await more()  # it goes on as before
    finally:
        load.stop()
    counts = await task
    print(f"{callers} callers: {counts}")
    assert (counts.wrong, counts.lost) == (0, 0), counts
    assert counts.sent == counts.right + counts.refused
    assert counts.slowest_refusal < 2, "a refusal comes at once"
    return counts


def sent_again() -> int:
    lines = [line for line in metrics.text().splitlines() if line.startswith("marquee_gateway_sent_again_total{")]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize(("callers", "workers"), [(4, 1), (16, 2)])
def test_killed_workers_lose_no_request(callers, workers, server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(workers)
            before = sent_again()

            async def disturb() -> None:
                for _ in range(KILLS):
                    pid = (await happens(place.pids))[0]
                    os.kill(pid, signal.SIGKILL)
                    await happens(lambda: not is_running(pid) and pid not in place.pids())  # noqa: B023
                    await asyncio.sleep(random.uniform(0.2, 1.5))
                await place.ready(workers)

            counts = await loaded(place, questions, callers, disturb)
            assert counts.right > 2 * callers
            assert sent_again() > before

    asyncio.run(main())


def test_all_workers_killed_at_once(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            pids = await place.scale(2)

            async def disturb() -> None:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                await happens(lambda: not place.proofs.is_ready, 2)
                assert not set(await place.ready(2)) & set(pids)

            counts = await loaded(place, questions, 16, disturb)
            assert set(counts.what) <= {"not_ready"}

    asyncio.run(main())


def test_ready_means_proven_since_this_worker_came(server, questions, caplog):
    async def main() -> None:
        async with pieces(server) as place:
            (pid,) = await place.scale(1)
            unanswered = asyncio.create_task(_until_sent_again(place, questions))
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            await happens(lambda: not place.proofs.is_ready, 2)
            assert time.monotonic() - began < 2
            assert place.proofs.versions[0].ready_workers == 0
            with pytest.raises(GatewayError) as refused:
                await place.ask(questions[0].body)
            assert (refused.value.kind.code, refused.value.kind.status) == ("not_ready", 503)
            assert refused.value.retry_after > 0
            assert time.monotonic() - began < 3
            # The host calls it READY first; it counts only when its answers were equal.
            seen = set()

            def is_proven() -> bool:
                states = {worker.state for worker in place.found().workers}
                seen.update(states)
                assert place.proofs.is_ready == ("READY" in states)
                return place.proofs.is_ready

            await happens(is_proven)
            assert "UNPROVEN" in seen
            (other,) = place.pids()
            assert other != pid
            assert f"golden answers equal, workers pid {other}" in caplog.text
            assert await unanswered == "right"

    caplog.set_level("INFO", "marquee.gateway")
    asyncio.run(main())


async def _until_sent_again(place: Pieces, questions: list[Question]) -> str:
    """Asks one after the other until an answer takes a restart; what became of that one."""
    counts, before = Counts(), sent_again()
    while True:
        for question in questions:
            began = time.monotonic()
            reply = await place.ask(question.body)
            counts.judge(question, reply, time.monotonic() - began)
            if sent_again() > before:
                return "right" if counts.wrong + counts.lost == 0 else str(counts)


def test_a_worker_that_is_stopped_is_ended(server, questions, caplog):
    async def main() -> None:
        async with pieces(server) as place:
            first, second = await place.scale(2)

            async def disturb() -> None:
                os.kill(first, signal.SIGSTOP)
                await happens(lambda: place.pids() == [second], 2)
                await happens(lambda: not is_running(first), 15)
                assert len(await place.ready(2)) == 2

            counts = await loaded(place, questions, 16, disturb)
            assert counts.refused == 0, "the other worker answers"
            assert max(counts.latencies) < 30
            # The only one: requests under way wait for the next.
            (only,) = await place.scale(1)

            async def again() -> None:
                os.kill(only, signal.SIGSTOP)
                await happens(lambda: not place.proofs.is_ready, 2)
                assert await place.ready(1) != [only]

            await loaded(place, questions, 4, again)
            for pid in (first, only):
                assert f"worker with pid {pid} was stopped for 3" in caplog.text

    asyncio.run(main())


def test_a_full_queue_is_refused_at_once(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(1)

            async def one() -> tuple[str, float]:
                began = time.monotonic()
                try:
                    reply = await place.ask(questions[0].body)
                except GatewayError as error:
                    assert (error.kind.status, error.message) == (503, "the queue is full")
                    assert error.retry_after > 0
                    return error.kind.code, time.monotonic() - began
                return str(reply.status), time.monotonic() - began

            for _ in range(10):
                results = await asyncio.gather(*(one() for _ in range(8 * QUEUE)))
                codes = [code for code, _ in results]
                assert set(codes) <= {"200", "busy"}
                if "busy" in codes:
                    break
            assert {"200", "busy"} == set(codes)
            assert codes.count("200") >= QUEUE
            assert place.proofs.is_ready
        async with pieces(server, max_waiting=3) as place:
            await place.ready()
            tasks = [asyncio.create_task(place.ask(questions[0].body)) for _ in range(4)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            (refused,) = [result for result in results if isinstance(result, GatewayError)]
            assert refused.kind.code == "busy"
            assert "3 requests to digits 1.0 wait already" in refused.message
            assert place.deliverer.waiting == 0

    asyncio.run(main())


def test_scaled_up_and_down_while_loaded(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(1)

            async def disturb() -> None:
                await place.scale(2)
                await asyncio.sleep(1)
                await place.scale(1)

            counts = await loaded(place, questions, 16, disturb)
            assert counts.refused == 0

    asyncio.run(main())


def test_another_version_becomes_the_default_and_the_old_one_goes(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(1)
            manage = place.backend.manage

            async def disturb() -> None:
                query = {"url": "digits-2.0.mar", "initial_workers": "1", "synchronous": "true"}
                assert (await manage("POST", "/models", query)).status == 200
                await happens(lambda: place.pids("2.0"))
                versions = [(version.version, version.is_default) for version in place.proofs.versions]
                assert sorted(versions) == [("1.0", True), ("2.0", False)]
                for version in ("1.0", "2.0"):
                    answer = json.loads((await place.ask(questions[0].body, version)).body)
                    assert answer["model"]["version"] == version
                assert (await manage("PUT", "/models/digits/2.0/set-default", {})).status == 200
                assert (await manage("DELETE", "/models/digits/1.0", {})).status == 200
                await happens(lambda: [version.version for version in place.proofs.versions] == ["2.0"], 5)

            counts = await loaded(place, questions, 16, disturb)
            assert counts.refused == 0
            assert json.loads((await place.ask(questions[0].body)).body)["model"]["version"] == "2.0"
            with pytest.raises(GatewayError, match="has no version '1.0'; it has 2.0") as refused:
                await place.ask(questions[0].body, "1.0")
            assert refused.value.kind.code == "not_found"
            # And back, for the tests that follow.
            query = {"url": "digits-1.0.mar", "initial_workers": "1", "synchronous": "true"}
            assert (await manage("POST", "/models", query)).status == 200
            assert (await manage("PUT", "/models/digits/1.0/set-default", {})).status == 200
            assert (await manage("DELETE", "/models/digits/2.0", {})).status == 200

    asyncio.run(main())


def test_a_version_that_answers_differently_is_never_served(server, questions, caplog):
    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(1)
            manage = place.backend.manage
            query = {"url": "digits-3.0.mar", "initial_workers": "1", "synchronous": "true"}
            assert (await manage("POST", "/models", query)).status == 200
            await happens(lambda: place.found("3.0").workers[0].state == "DIFFERENT")
            assert place.proofs.is_ready, "it is not the default version"
            with pytest.raises(GatewayError, match=r"digits 3\.0 does not answer as evaluation did") as refused:
                await place.ask(questions[0].body, "3.0")
            assert refused.value.kind.code == "not_ready"
            assert "digits 3.0 is not ready: answers differ from evaluation's; first: golden/0" in caplog.text
            assert (await place.ask(questions[0].body)).status == 200
            assert (await manage("PUT", "/models/digits/3.0/set-default", {})).status == 200
            await happens(lambda: not place.proofs.is_ready, 5)
            assert (await manage("PUT", "/models/digits/1.0/set-default", {})).status == 200
            await happens(lambda: place.proofs.is_ready, 5)
            assert (await manage("DELETE", "/models/digits/3.0", {})).status == 200
            await happens(lambda: place.proofs.find("digits", "3.0") is None, 5)

    asyncio.run(main())


def test_a_request_that_is_forgotten_is_sent_again(server, questions):
    """One that a worker took and will never answer, though the worker lives and no signal tells of it."""

    async def main() -> None:
        async with pieces(server) as place:
            query = {"url": "sleepy.mar", "initial_workers": "2", "synchronous": "true"}
            assert (await place.backend.manage("POST", "/models", query)).status == 200
            # Not an archive of this project: there are no golden answers to prove it by.
            deliverer = Deliverer(place.backend, place.watch, GatewayConfig())
            await happens(lambda: (found := place.watch.find("sleepy")) is not None and found.ready_workers == 2)
            assert (await deliverer.deliver(Call(model="sleepy", body=b"awake"), 30)).body == b"awake"
            reply = await deliverer.deliver(Call(model="sleepy", body=b"forget"), PATIENCE)
            assert (reply.status, reply.body) == (200, b"forget")
            assert 'sent_again_total{model="sleepy",reason="forgotten"} 1' in metrics.text()
            with pytest.raises(GatewayError, match=r"no worker of sleepy 1\.0 is ready"):
                await place.deliverer.deliver(Call(model="sleepy", body=b"awake"), 30)
            assert not place.proofs.is_ready, "a default version that cannot be proven is not ready"
            assert (await place.backend.manage("DELETE", "/models/sleepy", {})).status == 200

    asyncio.run(main())


def test_the_front_end_is_killed_and_started_anew(server, fleet, questions):
    """Other pids, other tokens; what stands between is a supervisor's work."""

    async def main() -> None:
        async with pieces(server) as place:
            await place.scale(1)
            tokens = (server.folder / "key_file.json").read_text()

            async def disturb() -> None:
                os.kill(server.pid, signal.SIGKILL)
                await happens(lambda: not place.proofs.is_ready, 2)
                await place.backend.disconnect()
                port = server.addresses.base_port
                again = await asyncio.to_thread(start, fleet, server.folder, port)
                assert (again.folder / "key_file.json").read_text() != tokens
                assert not place.proofs.is_ready
                await place.backend.reconnect(Target.of(again))
                await place.ready()

            counts = await loaded(place, questions, 16, disturb)
            assert set(counts.what) <= {"not_ready"}

    asyncio.run(main())


def test_tokens_are_renewed_when_they_are_refused(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.ready()
            path = server.folder / "key_file.json"
            await asyncio.to_thread(server.client().new_token, "inference")
            assert (await place.ask(questions[0].body)).status == 200  # the file was read again
            document = json.loads(path.read_text())
            document["inference"]["key"] = document["management"]["key"] = "expired1"
            path.write_text(json.dumps(document))
            replies = await asyncio.gather(*(place.ask(questions[0].body) for _ in range(8)))
            assert {reply.status for reply in replies} == {200}
            assert (await place.backend.manage("GET", "/models", {})).status == 200
            assert "expired1" not in path.read_text()

    asyncio.run(main())


def test_what_the_host_says_of_itself(server, questions):
    async def main() -> None:
        async with pieces(server) as place:
            await place.ready()
            said = await place.backend.describe("digits")
            assert said["model"]["version"] == "1.0"
            assert said is await place.backend.describe("digits"), "asked once for each set of workers"
            (version,) = place.watch.versions
            assert (version.name, version.version, version.is_default) == ("digits", "1.0", True)
            assert version.archive == "digits-1.0.mar"
            assert "marquee_queue_pending" in metrics.text()
            assert "marquee" in await place.backend.metrics()
            for model, number in (("nobody", None), ("no body/..?x=1", None), ("digits", "9.9")):
                with pytest.raises(GatewayError) as refused:
                    await place.deliverer.deliver(Call(model=model, version=number, body=b"x"), 10)
                assert refused.value.kind.code == "not_found"
            refused_reply = await place.ask(b"no image")
            assert (refused_reply.status, json.loads(refused_reply.body)["error"]["code"]) == (400, "not_an_image")

    asyncio.run(main())
