"""Runs work in a child process, which has its own memory and threads, and may crash without this one.

>>> with child(Predictor.load, folder) as process:  # doctest: +SKIP
...     process.ask(Predictor.predict, images)
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ChildError(Exception):
    """The work failed, or its process died; the message is one line."""


@dataclass(frozen=True)
class _Failure:
    text: str


class Child:
    """A child process that has loaded an object, and calls functions with it.

    Args:
        process: the process.
        connection: this end of the pipe to it.
    """

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid or 0

    def ask(self, function: Callable[Concatenate[Any, P], R], *arguments: P.args, **options: P.kwargs) -> R:
        """Calls ``function(LOADED, *arguments, **options)`` in the child; all but LOADED is sent by pickle.

        Raises:
            ChildError: the function or the loading failed, or the process has died.
        """
        self.submit(function, *arguments, **options)
        result: R = self.result()
        return result

    def submit(self, function: Callable[Concatenate[Any, P], Any], *arguments: P.args, **options: P.kwargs) -> None:
        """Like :meth:`ask`, but does not wait for the :meth:`result`, so that several children can work at once."""
        try:
            self._connection.send((function, arguments, options))
        except OSError:
            raise ChildError(self._death()) from None

    def poll(self, seconds: float) -> bool:
        """Waits up to ``seconds`` for the result; False if the work is still running."""
        return self._connection.poll(seconds)

    def result(self) -> Any:
        """Waits for the result of the last :meth:`submit`.

        Raises:
            ChildError: see :meth:`ask`.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise ChildError(self._death()) from None
        if isinstance(answer, _Failure):
            raise ChildError(answer.text)
        return answer

    def _death(self) -> str:
        self._process.join()
        code = self._process.exitcode or 0
        ending = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"its process {ending}; is there enough memory?"


@contextmanager
def child(load: Callable[..., Any], *arguments: Any, imports: Sequence[str] = ()) -> Iterator[Child]:
    """Starts a child process, and kills it at the end of the block; it also ends when this process has ended.

    It loads while this process continues; if loading fails, the first result raises the error. Ctrl-C, which a terminal
    sends to every process, is left to this process. A fork server imports the module of the first call's ``load``, and
    forks this child and those of later calls, because importing torch takes seconds. The fork server computes nothing,
    so it has no threads that a fork would lose. Its environment is that of this process at the first call. Where other
    code of this process has used multiprocessing's fork server before, its children are forked from that one.

    Args:
        load: called in the child with ``arguments``; like them, it is sent by pickle.
        arguments: of ``load``.
        imports: modules that the work imports lazily, for the fork server to import in advance.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([load.__module__, *imports])
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end, load, arguments), daemon=True)
    # The tracker unblocks SIGINT when it starts, which must not happen while SIGINT is blocked below.
    resource_tracker.ensure_running()
    try:
        # The fork server and its children inherit the signal mask, which keeps Ctrl-C from a child that is starting; a
        # fork server that other code has started passes on its own.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        child_end.close()  # so that the pipe ends when the process ends
        yield Child(process, parent_end)
    finally:
        parent_end.close()
        if process.pid is not None:
            process.kill()
            process.join()


def _serve(connection: Connection, load: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loaded = _attempt(load, arguments)
    while True:
        try:
            function, arguments, options = connection.recv()
        except EOFError:
            return
        failed = isinstance(loaded, _Failure)
        connection.send(loaded if failed else _attempt(function, (loaded, *arguments), options))


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any] = {}) -> Any:  # noqa: B006
    try:
        return function(*arguments, **options)
    except Exception as error:  # of any type, and not every exception can be pickled
        return _Failure(" ".join(str(error).split()) or type(error).__name__)
