"""Sends what ``marquee predict`` found, a bounded number of bodies at once, and tells what failed."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TextIO

from marquee.commands.predict_lines import Lines
from marquee.commands.predict_sources import Source
from marquee.handlers.core.quoting import one_line
from marquee.serving.answers import Answer
from marquee.serving.errors import OperationError
from marquee.training.core.progress import Progress

BUSY_WAITS = (0.25, 0.5, 1.0, 2.0)
"""Seconds to wait before each retry of a request that was refused with 503, as by a full queue."""
FEW = 16
"""Files of which no progress is displayed."""
_LISTED = 10
"""Files that the summary names."""
_GONE = 10
"""Requests in a row without any answer, after which the rest is not sent."""
_AHEAD = 4
"""Answers that may wait for one that takes long, for each request in flight."""

Ask = Callable[[bytes, str], Answer]
"""Sends a body with its content type."""


class Failures:
    """Counts what failed, and remembers the first."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, name: str, answer: Answer) -> None:
        """Counts one that failed."""
        self.codes[str(answer.body.get("error", {}).get("code", answer.status))] += 1
        if len(self.first) < _LISTED:
            self.first.append(one_line(name))

    @property
    def total(self) -> int:
        """How many failed."""
        return sum(self.codes.values())

    def summary(self, sent: int) -> str:
        """One line: how many of ``sent``, why, and which."""
        codes = ", ".join(f"{code} {count}" for code, count in self.codes.most_common())
        more = ", ..." if self.total > len(self.first) else ""
        return f"{self.total} of {sent} failed ({codes}): {', '.join(self.first)}{more}"


class Sender:
    """Sends one body after another, from several threads.

    Args:
        ask: sends a body.
        retry: whether a request that is refused with 503 is sent again.
    """

    def __init__(self, ask: Ask, retry: bool) -> None:
        self._ask = ask
        self._waits = BUSY_WAITS if retry else ()
        self._is_hopeless = False

    def send(self, source: Source) -> Answer:
        """The answer to one body; where no server answers, an error with the code ``no_answer``."""
        try:
            return self.try_to_send(source)
        except OperationError as error:
            return Answer(0, {"error": {"code": "no_answer", "message": str(error)}})

    def try_to_send(self, source: Source) -> Answer:
        """The answer to one body.

        Raises:
            OperationError: no server answers.
        """
        body = source.read()
        if isinstance(body, Answer):
            return body
        answer = self._ask(body, source.content_type)
        for wait in () if self._is_hopeless else self._waits:
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            time.sleep(wait)
            answer = self._ask(body, source.content_type)
        # A model without workers refuses everything: nothing after this waits for it, until one is answered.
        self._is_hopeless = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
        return answer


def predict_many(sources: Sequence[Source], ask: Ask, lines: Lines, in_flight: int, is_shown: bool) -> Failures:
    """Sends everything and writes the answers in the order of ``sources``.

    Args:
        sources: what to send.
        ask: sends a body.
        lines: where the answers go.
        in_flight: bodies that are under way at once.
        is_shown: whether the progress may be displayed.

    Returns:
        What failed.

    Raises:
        OperationError: no server answers the first body, or a number of them in a row.
    """
    failures = Failures()
    sender = Sender(ask, retry=len(sources) > 1)
    silent = 0
    progress = Progress(quiet=not is_shown or len(sources) <= FEW)
    with progress.task("predicting", len(sources)) as task:
        for done, (source, answer) in enumerate(_answers(sources, sender, in_flight), 1):
            if answer.error is not None:
                failures.add(source.name, answer)
            silent = silent + 1 if (answer.error or "").startswith("no_answer: ") else 0
            lines.write(source.name, answer)
            task.advance(f"{failures.total} failed" if failures.total else "")
            if silent == _GONE:
                lines.finish()
                message = answer.body["error"]["message"]
                raise OperationError(f"{message}; {done - silent} of {len(sources)} were sent before")
    lines.finish()
    return failures


def _answers(sources: Sequence[Source], sender: Sender, in_flight: int) -> Iterator[tuple[Source, Answer]]:
    """Each with its answer, in their order."""
    if not sources:
        return
    # Alone: where there is no server, that is one error.
    yield sources[0], sender.try_to_send(sources[0])
    waiting: deque[tuple[Source, Future[Answer]]] = deque()
    rest = iter(sources[1:])
    pool = ThreadPoolExecutor(in_flight, "predict")
    try:
        for source in islice(rest, _AHEAD * in_flight):
            waiting.append((source, pool.submit(sender.send, source)))
        while waiting:
            source, future = waiting.popleft()
            answer = future.result()
            for following in islice(rest, 1):
                waiting.append((following, pool.submit(sender.send, following)))
            yield source, answer
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when the block has ended well; until then it is ``PATH.partial``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="", buffering=1) as stream:
            yield stream
    except BaseException:
        print(f"{partial} has the answers until then", file=sys.stderr)
        raise
    partial.replace(path)
