"""Delivery, watch and proofs in front of a host that does what a test says, at the moment that it says."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest

from marquee.gateway import metrics
from marquee.gateway.backend import (
    AbsentError,
    Backend,
    Call,
    FullError,
    LostError,
    Reply,
    UnreachedError,
    Version,
    Worker,
)
from marquee.gateway.config import GatewayConfig
from marquee.gateway.delivery import MOST_LOST, Deliverer
from marquee.gateway.errors import GatewayError
from marquee.gateway.proof import SHARE, as_answer, plan
from marquee.gateway.watch import Loss, Watch, losses
from tests.gateway_pieces import happens

CALL = Call(model="m", body=b"x")
GOOD = Reply(status=200, body=b"{}")


def version(number: str = "1.0", *workers: Worker, is_default: bool = True, name: str = "m") -> Version:
    return Version(name=name, version=number, is_default=is_default, workers=workers)


def worker(identifier: str = "9000", state: str = "READY", pid: int | None = None) -> Worker:
    return Worker(id=identifier, pid=pid, state=state)


class Scripted(Backend):
    """A host whose attempts end as a list says; the last entry stays. ``None`` never ends."""

    def __init__(self, *outcomes: Reply | type[Exception] | None) -> None:
        self.outcomes = list(outcomes)
        self.asked = 0
        self.seen: Sequence[Version] | type[Exception] = [version("1.0", worker())]

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ask(self, call: Call, timeout: float) -> Reply:
        self.asked += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is None:
            await asyncio.sleep(3600)
        if isinstance(outcome, Reply):
            return outcome
        assert outcome is not None
        raise outcome("as the test says")

    async def versions(self) -> Sequence[Version]:
        if not isinstance(self.seen, Sequence):
            raise self.seen("as the test says")
        return self.seen


@asynccontextmanager
async def delivered(host: Scripted, **config) -> AsyncIterator[tuple[Watch, Deliverer]]:
    watch = Watch(host)
    deliverer = Deliverer(host, watch, GatewayConfig(**config))
    await watch.start()
    try:
        yield watch, deliverer
    finally:
        await watch.stop()


def outcome(host: Scripted, seconds: float = 30, call: Call = CALL) -> tuple[Reply | GatewayError, float]:
    """What a client gets, and after how many seconds."""

    async def main() -> tuple[Reply | GatewayError, float]:
        async with delivered(host) as (_, deliverer):
            began = time.monotonic()
            try:
                return await deliverer.deliver(call, seconds), time.monotonic() - began
            except GatewayError as error:
                return error, time.monotonic() - began
            finally:
                assert deliverer.waiting == 0

    return asyncio.run(main())


class TestDelivery:
    @pytest.mark.parametrize("first", [LostError, UnreachedError])
    def test_what_was_lost_is_sent_again(self, first):
        host = Scripted(first, first, GOOD)
        assert outcome(host)[0] is GOOD
        assert host.asked == 3

    def test_the_handler_s_refusals_are_answers(self):
        refusal = Reply(status=503, body=b'{"error": {}}')
        host = Scripted(refusal)
        assert outcome(host)[0] is refusal
        assert host.asked == 1

    def test_a_full_queue_is_refused_at_once_and_waited_for_later(self):
        host = Scripted(FullError)
        refused, _ = outcome(host)
        assert (refused.kind.code, refused.retry_after, host.asked) == ("busy", 1.0, 1)
        host = Scripted(LostError, FullError, FullError, GOOD)
        assert outcome(host)[0] is GOOD

    def test_a_model_that_has_gone_is_not_found(self):
        assert outcome(Scripted(AbsentError))[0].kind.code == "not_found"
        for call in (Call(model="other", body=b""), Call(model="m", version="2.0", body=b"")):
            host = Scripted(GOOD)
            assert outcome(host, call=call)[0].kind.code == "not_found"
            assert host.asked == 0

    def test_a_request_that_ends_every_worker_is_given_up(self):
        """Else it would end them all, and never cease."""
        host = Scripted(LostError)
        refused, _ = outcome(host)
        assert (refused.kind.code, refused.kind.status) == ("no_answer", 504)
        assert f"sent {MOST_LOST} times, at last with: as the test says" in refused.message
        assert host.asked == MOST_LOST

    def test_at_the_deadline_it_says_so(self):
        refused, seconds = outcome(Scripted(None), seconds=0.3)
        assert (refused.kind.code, refused.message) == ("no_answer", "no answer; the request was sent once")
        assert 0.25 < seconds < 5
        assert outcome(Scripted(UnreachedError), seconds=0.3)[0].kind.code == "no_answer"

    def test_nobody_ready_is_refused_at_once(self):
        host = Scripted(GOOD)
        for workers in ((), (worker(state="UNLOADING"),)):
            host.seen = [version("1.0", *workers)]
            refused, _ = outcome(host)
            assert (refused.kind.code, refused.kind.status) == ("not_ready", 503)
            assert refused.retry_after > 0
        host.seen = UnreachedError
        assert outcome(host)[0].kind.code == "not_ready"
        assert host.asked == 0

    def test_a_client_that_has_gone_leaves_nothing(self):
        async def main() -> None:
            host = Scripted(None)
            async with delivered(host) as (_, deliverer):
                task = asyncio.create_task(deliverer.deliver(CALL, 60))
                await happens(lambda: deliverer.waiting == 1)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                assert task.cancelled()
                assert deliverer.waiting == 0

        asyncio.run(main())

    def test_requests_under_way_wait_for_a_worker_and_are_sent_again(self):
        async def main() -> None:
            host = Scripted(None)
            async with delivered(host) as (watch, deliverer):
                tasks = [asyncio.create_task(deliverer.deliver(CALL, 60)) for _ in range(3)]
                pinned = asyncio.create_task(deliverer.deliver(replace(CALL, version="1.0"), 60))
                await happens(lambda: host.asked == 4)
                host.seen = [version("1.0", worker(state="UNLOADING"))]
                await happens(lambda: watch.find("m").ready_workers == 0)
                host.outcomes = [GOOD]
                await asyncio.sleep(1.5)
                assert host.asked == 4, "there is nobody to send them to"
                host.seen = [version("2.0", worker("9001"))]  # and the old one is gone
                assert [await task for task in tasks] == [GOOD] * 3
                with pytest.raises(GatewayError, match="has no version '1.0'; it has 2.0"):
                    await pinned

        asyncio.run(main())

    def test_one_whose_attempt_failed_waits_until_a_worker_is_ready(self):
        async def main() -> None:
            host = Scripted(None)
            async with delivered(host) as (watch, deliverer):
                task = asyncio.create_task(deliverer.deliver(CALL, 60))
                await happens(lambda: host.asked == 1)
                host.outcomes = [UnreachedError]
                host.seen = [version("1.0", worker(state="UNLOADING"))]
                await happens(lambda: watch.find("m").ready_workers == 0)
                host.seen = [version("1.0", worker("2"))]
                await happens(lambda: host.asked >= 2)  # by which there is again nobody
                host.seen = UnreachedError
                await happens(lambda: not watch.is_connected)
                await asyncio.sleep(1.5)
                asked, host.outcomes = host.asked, [GOOD]
                await asyncio.sleep(1)
                assert host.asked == asked
                host.seen = [version("1.0", worker("3"))]
                assert await asyncio.wait_for(task, 20) is GOOD

        asyncio.run(main())

    def test_other_versions_are_left_alone(self):
        async def main() -> None:
            host = Scripted(None)
            host.seen = [version("1.0", worker("1")), version("2.0", worker("2"), is_default=False)]
            async with delivered(host) as (watch, deliverer):
                task = asyncio.create_task(deliverer.deliver(replace(CALL, version="1.0"), 60))
                await happens(lambda: host.asked == 1)
                host.seen = [host.seen[0]]
                await happens(lambda: watch.find("m", "2.0") is None)
                await asyncio.sleep(1.5)
                assert host.asked == 1
                host.outcomes = [GOOD]
                host.seen = [version("1.0", worker("3"))]
                assert await task is GOOD
                assert host.asked == 2

        asyncio.run(main())

    def test_one_that_many_have_overtaken_is_sent_again(self):
        async def main() -> None:
            host = Scripted(None, GOOD)
            async with delivered(host) as (_, deliverer):
                first = asyncio.create_task(deliverer.deliver(CALL, 60))
                await happens(lambda: host.asked == 1)
                while not first.done():
                    assert await deliverer.deliver(CALL, 60) is GOOD
                    await asyncio.sleep(0.02)
                assert await first is GOOD

        asyncio.run(main())


class TestWatch:
    def test_what_is_a_loss(self):
        before = {("m", "1.0"): version("1.0", worker("a"), worker("b", pid=3), worker("c", state="UNLOADING"))}
        after = {("m", "1.0"): version("1.0", worker("a", state="DEAD"), worker("b", pid=4), worker("d"))}
        found = [(loss.worker.id, loss.worker.state, loss.version.ready_workers) for loss in losses(before, after)]
        assert found == [("a", "DEAD", 2), ("b", "GONE", 2)]
        assert [loss.worker.state for loss in losses(before, {})] == ["GONE", "GONE"]
        assert list(losses(before, before)) == []

    def test_processes_are_looked_at(self):
        async def main() -> None:
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            host = Scripted(GOOD)
            host.seen = [version("1.0", worker(pid=process.pid))]
            watch = Watch(host, stopped_seconds=0.5)
            lost: list[Loss] = []
            watch.on_loss(lost.append)
            try:
                await watch.start()
                assert watch.find("m").ready_workers == 1
                os.kill(process.pid, signal.SIGSTOP)
                await happens(lambda: watch.find("m").workers[0].state == "STOPPED", 5)
                # The host goes on to call it READY. It is ended, for nobody else does so.
                await happens(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 10)
                await happens(lambda: watch.find("m").workers[0].state == "DEAD", 5)
                assert [loss.worker.state for loss in lost] == ["STOPPED", "DEAD"]
            finally:
                process.kill()
                process.wait()
                await watch.stop()

        asyncio.run(main())

    def test_a_host_that_is_slow_once_is_not_gone(self):
        async def main() -> None:
            host = Scripted(GOOD)
            watch = Watch(host)
            await watch.start()
            await watch.stop()
            host.seen = LostError
            await watch.ask()
            watch.look()
            assert watch.is_connected
            assert watch.find("m").ready_workers == 1
            await watch.ask()
            await watch.ask()
            watch.look()
            assert not watch.is_connected
            assert [entry.state for entry in watch.find("m").workers] == ["UNREACHABLE"]
            host.seen = [version("1.0", worker())]
            await watch.ask()
            host.seen = UnreachedError
            await watch.ask()
            assert not watch.is_connected, "nothing listens"

        asyncio.run(main())


class TestProofs:
    @pytest.mark.parametrize(("samples", "workers"), [(16, 1), (16, 4), (3, 8), (1, 1), (100, 2)])
    def test_each_sample_and_a_share_for_each_worker(self, samples, workers):
        numbers = plan(samples, workers)
        assert set(numbers) == set(range(samples))
        assert len(numbers) >= SHARE * workers
        assert len(numbers) < SHARE * workers + samples or len(numbers) == samples

    @pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"text"])
    def test_an_answer_that_is_no_object_is_an_error(self, body):
        assert as_answer(Reply(status=200, body=body)).error is not None


def test_metrics_are_prometheus_text():
    metrics.set_pending({('a"\\\n', "1.0"): 3})
    metrics.count_refused("busy")
    lines = metrics.text().splitlines()
    assert 'marquee_queue_pending{model="a\\"\\\\\\n",version="1.0"} 3' in lines
    assert "# TYPE marquee_queue_pending gauge" in lines
    assert 'marquee_gateway_lost_total{model="a\\"\\\\\\n"} 0' in lines
    assert any(line.startswith('marquee_gateway_refused_total{reason="busy"} ') for line in lines)
    metrics.set_pending({})
    assert "marquee_queue_pending{" not in metrics.text()
    assert metrics.text().endswith("\n")
