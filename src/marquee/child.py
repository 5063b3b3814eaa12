"""Work in a process of its own: its memory, its threads and its death are its own, too.

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
    """A process that holds what it has loaded, and calls functions with it.

    Args:
        process: the process.
        connection: to it.
    """

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def ask(self, function: Callable[Concatenate[Any, P], R], *arguments: P.args, **options: P.kwargs) -> R:
        """What ``function(LOADED, *arguments, **options)`` returns there; everything but LOADED goes by pickle.

        Raises:
            ChildError: it failed, or loading did, or the process has died.
        """
        self.submit(function, *arguments, **options)
        result: R = self.result()
        return result

    def submit(self, function: Callable[Concatenate[Any, P], Any], *arguments: P.args, **options: P.kwargs) -> None:
        """As :meth:`ask`, without waiting for the :meth:`result`: several processes are at work at once."""
        try:
            self._connection.send((function, arguments, options))
        except OSError:
            raise ChildError(self._death()) from None

    def poll(self, seconds: float) -> bool:
        """Waits so long for the end of the work; False when it goes on."""
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
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"its process {how}; is there enough memory?"


@contextmanager
def child(load: Callable[..., Any], *arguments: Any, imports: Sequence[str] = ()) -> Iterator[Child]:
    """A fresh process for the length of the block, after which it is killed; it ends when this one has gone, too.

    It loads while this process goes on; that loading failed is said by the first result. Ctrl-C, which a terminal sends
    to every process, is left to this one. A server imports the module of the first call's ``load`` and forks the
    process and those of later calls: torch takes seconds. The server computes nothing, so it has no threads that a fork
    would leave behind. Its environment is this process's at the first call.

    Args:
        load: called there with ``arguments``; like them, it goes by pickle.
        arguments: of ``load``.
        imports: modules that the work imports where it uses them, for the server to import, too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([load.__module__, *imports])
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, load, arguments), daemon=True)
    # It unblocks Ctrl-C when it starts, which must not be in the middle of what follows.
    resource_tracker.ensure_running()
    try:
        # The child inherits the mask.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()  # so that the end of the process is the end of the pipe
        yield Child(process, ours)
    finally:
        ours.close()
        if process.pid is not None:
            process.kill()
            process.join()


def _serve(connection: Connection, load: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
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
    except Exception as error:  # a library raises what it likes, and not everything that it raises can be sent
        return _Failure(" ".join(str(error).split()) or type(error).__name__)
