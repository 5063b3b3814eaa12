"""Callers that send a test image, wait for its answer, compare it with evaluation's, and send the next one."""

import asyncio
import csv
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from marquee.gateway.backend import Reply
from marquee.gateway.errors import BUSY, NOT_READY, GatewayError

PATIENCE_SECONDS = 0.1
"""What a caller waits after it was refused; less than Retry-After says, so that it meets the moment of recovery."""
TOLERANCE = 1e-4
"""Of a probability, as golden answers have it."""
REFUSED = {503, 429}

Ask = Callable[[bytes], Awaitable[Reply]]
"""Sends one body. A refusal is a reply of :data:`REFUSED` with ``retry-after``, or a GatewayError with it."""


@dataclass(frozen=True)
class Question:
    """A test image, and what evaluation answered."""

    body: bytes
    label: str
    probability: float


def read_questions(run: Path, most: int = 64) -> list[Question]:
    """Test images of a finished run, from all over its ``predictions.csv``.

    Args:
        run: folder of the run.
        most: how many.
    """
    with open(run / "predictions.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["predicted"] in row]
    chosen = rows[:: max(1, len(rows) // most)][:most]
    return [Question(Path(row["path"]).read_bytes(), row["predicted"], float(row[row["predicted"]])) for row in chosen]


@dataclass
class Counts:
    """What became of the requests."""

    sent: int = 0
    right: int = 0
    refused: int = 0
    """At once, with a time after which to ask again."""
    wrong: int = 0
    lost: int = 0
    """No answer: none at the deadline, a broken connection, an error."""
    what: Counter[str] = field(default_factory=Counter)
    """Why, of those that are not right."""
    slowest_refusal: float = 0.0
    """Seconds."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of the right ones."""

    def __str__(self) -> str:
        more = f" {dict(self.what)}" if self.what else ""
        numbers = f"{self.sent} sent, {self.right} right, {self.refused} refused, {self.wrong} wrong, {self.lost} lost"
        slowest = f"slowest answer {max(self.latencies, default=0):.1f} s, refusal {self.slowest_refusal:.2f} s"
        return f"{numbers}, {slowest}{more}"

    def judge(self, question: Question, reply: Reply, seconds: float) -> bool:
        """Counts an answer; False: the caller should wait before it asks again."""
        if reply.status in REFUSED and "retry-after" in reply.headers:
            self.refuse(f"status {reply.status}: {_code(reply)}", seconds)
            return False
        if reply.status != 200:
            self.lost += 1
            self.what[f"status {reply.status}: {reply.body[:120].decode('utf-8', 'replace')}"] += 1
            return False
        best = json.loads(reply.body)["ranking"][0]
        if best["label"] == question.label and abs(best["probability"] - question.probability) <= TOLERANCE:
            self.right += 1
            self.latencies.append(seconds)
        else:
            self.wrong += 1
            self.what[f"wrong: {best}, expected {question.label} {question.probability:.6f}"] += 1
        return True

    def refuse(self, why: str, seconds: float) -> None:
        """Counts a refusal."""
        self.refused += 1
        self.what[why] += 1
        self.slowest_refusal = max(self.slowest_refusal, seconds)


def _code(reply: Reply) -> str:
    """Of a refusal, for programs."""
    try:
        return str(json.loads(reply.body)["code"])
    except (ValueError, KeyError, TypeError):
        return "nobody listens" if not reply.body else "unknown"


@dataclass
class Load:
    """Callers, from :meth:`run` until :meth:`stop`; each waits for its last answer.

    Args:
        ask: sends a body.
        questions: are asked in turn.
        callers: how many there are at a time.
        pause: seconds between an answer and the caller's next request.
    """

    ask: Ask
    questions: Sequence[Question]
    callers: int
    pause: float = 0.0
    counts: Counts = field(default_factory=Counts)
    _stopping: bool = False

    def stop(self) -> None:
        """No caller asks again."""
        self._stopping = True

    async def run(self) -> Counts:
        """The counts, when the last caller has its answer."""
        await asyncio.gather(*(self._call(number) for number in range(self.callers)))
        return self.counts

    async def _call(self, number: int) -> None:
        counts, place = self.counts, number * 7
        while not self._stopping:
            place += 1
            question = self.questions[place % len(self.questions)]
            counts.sent += 1
            began = time.monotonic()
            try:
                reply = await self.ask(question.body)
                is_taken = counts.judge(question, reply, time.monotonic() - began)
            except GatewayError as error:
                is_taken = False
                if error.kind in (BUSY, NOT_READY) and error.retry_after is not None:
                    counts.refuse(error.kind.code, time.monotonic() - began)
                else:
                    counts.lost += 1
                    counts.what[f"{error.kind.code}: {error.message}"] += 1
            except Exception as error:
                is_taken = False
                counts.lost += 1
                counts.what[f"{type(error).__name__}: {error}"] += 1
            if pause := self.pause if is_taken else PATIENCE_SECONDS:
                await asyncio.sleep(pause)
