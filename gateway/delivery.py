"""No lost request: one call gets one reply, whatever happens to the workers in between.

A prediction may be sent twice without harm. It is sent again when its connection breaks off, when TorchServe says that
its worker died, and when TorchServe forgot it: what a worker had in hand when it died may never be answered, and
nobody says so. Therefore the requests that were under way when the watch saw a worker's end are sent again: where other
workers are ready, those that are still unanswered after a moment; otherwise, all that are left when a worker has been
proven again, for the queue, which the host keeps, is answered before that. Without such an end, a request counts as
forgotten when nobody is at work on it, or when many that came later were answered.

A new request is refused at once when nobody could answer it now. One that was taken is kept until its deadline.
"""

import asyncio
import logging
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain

from marquee.gateway import metrics
from marquee.gateway.backend import AbsentError, Backend, Call, FullError, LostError, Reply, UnreachedError, Version
from marquee.gateway.config import GatewayConfig
from marquee.gateway.deadline import Timeout, end_now, timeout_at
from marquee.gateway.errors import BUSY, NO_ANSWER, NOT_FOUND, NOT_READY, GatewayError
from marquee.gateway.idle import Idleness
from marquee.gateway.readiness import Proofs
from marquee.gateway.watch import Known, Loss, Watch, key

logger = logging.getLogger(__name__)

GRACE_SECONDS = 0.5
"""What requests under way have to be answered by other workers after one has died."""
IDLE_SECONDS = 5.0
"""After which a request to a version that has nothing to do has been forgotten."""
PATIENCE_SECONDS = 4.0
"""After which a request has been forgotten, if many that came later were answered; twice that the next time."""
OVERTAKEN = 20
"""That many."""
MOST_LOST = 5
"""Attempts that failed, after which a request is given up: it may be what ends the workers. One that was only suspected
to be lost counts for nothing."""
BUSY_RETRY = 1.0
NOT_READY_RETRY = 5.0
"""Seconds: about what a worker takes to start."""
PAUSES = (0.02, 0.1, 0.3, 1.0)
"""Seconds before another attempt, by the number of those that failed, where the host seems to be well."""


@dataclass(eq=False, slots=True)
class _Flight:
    """A request that was taken."""

    call: Call
    place: tuple[str, str]
    """Name, and the version that was asked when it came."""
    deadline: float
    """Of the event loop's clock."""
    attempts: int = 0
    lost: int = 0
    scope: Timeout | None = None
    """Of the attempt under way."""
    sent_at: float = 0.0
    """When the attempt under way began."""
    in_turn: int = 0
    """Answers of this version, counted from its first, after which it is this attempt's turn."""
    suspected: float | None = None
    """Since when the attempt under way may be one whose worker has ended."""
    reason: str = ""
    """Why it was interrupted."""
    said: str = ""
    """What came in place of the last answer."""

    def interrupt(self, reason: str) -> None:
        """Ends the attempt under way, so that the request is sent again."""
        if self.scope is not None:
            self.reason = reason
            end_now(self.scope)


class Deliverer:
    """Delivers calls to a host.

    Args:
        backend: the host.
        watch: of its workers.
        config: ``max_waiting``.
        proofs: which versions may be asked; None: every one with a READY worker, as without golden samples.
    """

    def __init__(self, backend: Backend, watch: Watch, config: GatewayConfig, proofs: Proofs | None = None) -> None:
        self._backend, self._watch, self._most_waiting = backend, watch, config.max_waiting
        self._known: Known = watch if proofs is None else proofs
        self._flights: dict[str, set[_Flight]] = defaultdict(set)
        self._waiting: dict[tuple[str, str], int] = defaultdict(int)
        self._answered: dict[tuple[str, str], int] = defaultdict(int)
        self._idleness = Idleness()
        self._changed = asyncio.Event()
        watch.on_loss(self._suspect)
        if proofs is None:
            watch.on_look(self._review)
        else:
            proofs.on_change(self._review)

    @property
    def waiting(self) -> int:
        """Requests under way."""
        return sum(self._waiting.values())

    async def deliver(self, call: Call, seconds: float) -> Reply:
        """The answer to a call; see :class:`marquee.gateway.gateway.Delivery`."""
        try:
            place = key(self._admit(call))
            flight = _Flight(call, place, asyncio.get_running_loop().time() + seconds)
            flights = self._flights[call.model]
            flights.add(flight)
            self._waiting[place] += 1
            try:
                reply = await self._answer(flight)
            finally:
                flights.discard(flight)
                self._waiting[place] -= 1
                self._answered[place] += 1
        except GatewayError as error:
            metrics.count_refused(error.kind.code)
            raise
        metrics.count_answered(call.model)
        return reply

    def _admit(self, call: Call) -> Version:
        """The version that is asked.

        Raises:
            GatewayError: nobody could answer the call now.
        """
        found = self._known.find(call.model, call.version)
        if found is None:
            raise self._absent(call)
        if not found.ready_workers:
            if any(worker.state == "DIFFERENT" for worker in found.workers):
                message = f"{found.name} {found.version} does not answer as evaluation did, and is not served"
                raise GatewayError(NOT_READY, message, retry_after=NOT_READY_RETRY)
            message = f"no worker of {found.name} {found.version} is ready"
            raise GatewayError(NOT_READY, message, retry_after=NOT_READY_RETRY)
        if self._waiting[key(found)] >= self._most_waiting:
            message = f"{self._most_waiting} requests to {found.name} {found.version} wait already"
            raise GatewayError(BUSY, message, retry_after=BUSY_RETRY)
        return found

    def _absent(self, call: Call) -> GatewayError:
        versions = [version.version for version in self._watch.versions if version.name == call.model]
        if not versions and not self._watch.is_connected:
            return GatewayError(NOT_READY, "the server is starting", retry_after=NOT_READY_RETRY)
        if versions and call.version is None:
            message = f"model {call.model!r} has no default version just now"
            return GatewayError(NOT_READY, message, retry_after=NOT_READY_RETRY)
        if not versions:
            return GatewayError(NOT_FOUND, f"unknown model {call.model!r}")
        known = ", ".join(versions)
        return GatewayError(NOT_FOUND, f"model {call.model!r} has no version {call.version!r}; it has {known}")

    async def _answer(self, flight: _Flight) -> Reply:
        loop = asyncio.get_running_loop()
        while True:
            remaining = flight.deadline - loop.time()
            flight.attempts += 1
            flight.sent_at, flight.suspected = loop.time(), None
            flight.in_turn = self._answered[flight.place] + self._waiting[flight.place]
            try:
                async with timeout_at(flight.deadline) as flight.scope:
                    # The deadline is this block's; the attempt's own limit is there for those who set none.
                    return await self._backend.ask(flight.call, remaining + 1)
            except asyncio.TimeoutError:
                reason = flight.reason  # or the deadline has come
            except UnreachedError:
                reason = "unreached"
            except LostError as error:
                reason = "no_answer"
                flight.lost, flight.said = flight.lost + 1, str(error)
            except FullError:
                if flight.attempts == 1:
                    raise GatewayError(BUSY, "the queue is full", retry_after=BUSY_RETRY) from None
                reason = "full"
            except AbsentError as error:
                raise GatewayError(NOT_FOUND, str(error)) from None
            finally:
                flight.scope = None
            if loop.time() >= flight.deadline:
                raise self._late(flight)
            await self._until_it_may_be_sent(flight, reason)
            metrics.count_sent_again(flight.call.model, reason)

    async def _until_it_may_be_sent(self, flight: _Flight, reason: str) -> None:
        """Waits until a worker could answer.

        Raises:
            GatewayError: the deadline has come, the version was removed, or there were attempts enough.
        """
        if flight.lost >= MOST_LOST:
            raise self._late(flight)
        try:
            async with timeout_at(flight.deadline):
                if reason in ("no_answer", "unreached", "full"):
                    pause = PAUSES[min(flight.attempts, len(PAUSES)) - 1]
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - apart from each other
                while True:
                    found = self._known.find(flight.call.model, flight.call.version)
                    if found is None and self._watch.is_connected:
                        raise self._absent(flight.call)
                    if found is not None and found.ready_workers:
                        return
                    await self._changed.wait()
        except asyncio.TimeoutError:
            raise self._late(flight) from None

    def _late(self, flight: _Flight) -> GatewayError:
        metrics.count_lost(flight.call.model)
        times = "once" if flight.attempts == 1 else f"{flight.attempts} times"
        said = f", at last with: {flight.said}" if flight.said else ""
        return GatewayError(NO_ANSWER, f"no answer; the request was sent {times}{said}")

    def _suspect(self, loss: Loss) -> None:
        """A worker has ended: it may have had any request that is under way."""
        now = asyncio.get_running_loop().time()
        for flight in self._flights.get(loss.version.name, ()):
            is_meant = flight.call.version in (None, loss.version.version)
            if is_meant and flight.scope is not None and flight.suspected is None:
                flight.suspected = now

    def _review(self) -> None:
        """Wakes the requests that wait for a worker, and interrupts the attempts that were forgotten."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._idleness.look(self._watch.versions)
        now = asyncio.get_running_loop().time()
        again: Counter[tuple[str, str]] = Counter()
        for flight in chain.from_iterable(self._flights.values()):
            if flight.scope is None or (reason := self._why_again(flight, now)) is None:
                continue
            found = self._known.find(flight.call.model, flight.call.version)
            if found is None or found.ready_workers:
                flight.interrupt(reason)
                again[flight.call.model, reason] += 1
        for (model, reason), number in again.items():
            logger.info("%s: %d requests under way are sent again: %s", model, number, reason)

    def _why_again(self, flight: _Flight, now: float) -> str | None:
        """Why the attempt under way will get no answer; None: it may get one."""
        if flight.suspected is not None and now - flight.suspected >= GRACE_SECONDS:
            return "worker_lost"
        age = now - flight.sent_at
        if min(age, self._idleness.seconds(flight.place)) >= IDLE_SECONDS:
            return "forgotten"
        is_overtaken = self._answered[flight.place] - flight.in_turn >= OVERTAKEN
        if is_overtaken and age >= PATIENCE_SECONDS * 2 ** (flight.attempts - 1):
            return "forgotten"
        return None
